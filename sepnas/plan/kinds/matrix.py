"""Products of matrices: fully connected layers, attention, and tables of embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sepnas.plan.kinds.kind import (
    AtenCall,
    Dims,
    GraphOperator,
    OperatorUse,
    Restriction,
    along,
    broadcast,
    broadcast_region,
    exactly,
    sizes_text,
    whole,
)
from sepnas.plan.kinds.terms import Terms
from sepnas.plan.operators import Operator
from sepnas.plan.shapes import Region


class Linear(GraphOperator):
    """``weight`` is (outputs, inputs); the last axis of the input is multiplied."""

    def output(self, use: OperatorUse) -> Dims:
        data, weight = use["input"], use["weight"]
        if not data or len(weight) != 2 or data[-1] != weight[1] or use.inputs.get("bias", weight[:1]) != weight[:1]:
            raise ValueError(f"{sizes_text(weight)} is no weight for input {sizes_text(data)}, or has another bias")
        return (*data[:-1], weight[0])

    def axes(self, use: OperatorUse, names: Mapping[str, str]) -> str:
        leading = names["input"][:-1]
        return leading + ("?" if "C" in leading else "C")

    def macs(self, use: OperatorUse) -> int:
        return math.prod(self.output(use)) * use["weight"][1]

    def padding_share(self, use: OperatorUse) -> float:
        return 0.0

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        return dict.fromkeys(range(len(use["input"])), 1)

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        *rows, outputs = region.ranges
        inputs = (0, use["weight"][1])
        regions = {"input": Region((*rows, inputs)), "weight": Region((outputs, inputs))}
        if "bias" in use.inputs:
            regions["bias"] = Region((outputs,))
        return exactly(regions, use.attributes, region.dims)

    def terms(self, use: OperatorUse) -> Terms | None:
        return Terms.along("input", use["input"], len(use["input"]) - 1)

    def partial(self, use: OperatorUse, terms: Region) -> Restriction:
        [inputs] = terms.ranges
        regions = {role: along(use[role], -1, inputs) for role in ("input", "weight")}
        if "bias" in use.inputs and inputs[0] == 0:
            regions["bias"] = whole(use["bias"])
        return exactly(regions, use.attributes, self.output(use))

    def priced(self, use: OperatorUse) -> tuple[Operator, ...]:
        return (_rows_of_linear(math.prod(use["input"][:-1]), use["weight"][1], use["weight"][0]),)


class MatrixProduct(GraphOperator):
    """``self`` @ ``mat2`` with broadcast leading axes, and optionally an ``added`` operand (addmm, baddbmm)."""

    def _operands(self, use: OperatorUse) -> tuple[str, str]:
        first, second = ("batch1", "batch2") if "batch1" in use.inputs else ("mat1", "mat2")
        if first not in use.inputs:
            first, second = "self", next((role for role in use.inputs if role != "self"), "other")
        if min(len(use[first]), len(use[second])) < 2:
            raise ValueError("vectors are not multiplied by this operator")
        return first, second

    def output(self, use: OperatorUse) -> Dims:
        first, second = (use[role] for role in self._operands(use))
        if first[-1] != second[-2]:
            raise ValueError(f"{sizes_text(first)} and {sizes_text(second)} cannot be multiplied")
        dims = (*broadcast(first[:-2], second[:-2]), first[-2], second[-1])
        if self._adds(use) and broadcast(use["self"], dims) != dims:
            raise ValueError(f"{sizes_text(use['self'])} cannot be added to {sizes_text(dims)}")
        return dims

    def _adds(self, use: OperatorUse) -> bool:
        return len(use.inputs) == 3

    def macs(self, use: OperatorUse) -> int:
        return math.prod(self.output(use)) * use[self._operands(use)[0]][-1]

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        return dict.fromkeys(range(len(self.output(use))), 1)

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        first, second = self._operands(use)
        *leading, rows, columns = region.ranges
        inner = (0, use[first][-1])
        regions = {
            first: _matrix((*leading, rows, inner), use[first]),
            second: _matrix((*leading, inner, columns), use[second]),
        }
        if self._adds(use):
            regions["self"] = broadcast_region(region.ranges, use["self"])
        return exactly({role: regions[role] for role in use.inputs}, use.attributes, region.dims)

    def terms(self, use: OperatorUse) -> Terms | None:
        first = self._operands(use)[0]
        scaled = {"alpha", "beta"} & use.attributes.keys()
        return None if scaled else Terms.along(first, use[first], len(use[first]) - 1)

    def partial(self, use: OperatorUse, terms: Region) -> Restriction:
        first, second = self._operands(use)
        [inner] = terms.ranges
        regions = {first: along(use[first], -1, inner), second: along(use[second], -2, inner)}
        if self._adds(use) and inner[0] == 0:
            regions["self"] = whole(use["self"])
        return exactly(regions, use.attributes, self.output(use))

    def calls(self, use: OperatorUse) -> tuple[AtenCall, ...]:
        first, second = self._operands(use)
        if "self" in use.inputs:
            return super().calls(use)
        return (AtenCall("matmul.default", {"self": first, "other": second}, {}),)  # a share without the addition

    def priced(self, use: OperatorUse) -> tuple[Operator, ...]:
        dims = self.output(use)
        return (_rows_of_linear(math.prod(dims[:-1]), use[self._operands(use)[0]][-1], dims[-1]),)


class Attention(GraphOperator):
    """Scaled dot-product attention: ``query`` (..., L, E), ``key`` (..., S, E), ``value`` (..., S, V), and a mask."""

    parameters = ()

    def output(self, use: OperatorUse) -> Dims:
        query, key, value = use["query"], use["key"], use["value"]
        if min(len(query), len(key), len(value)) < 2 or query[-1] != key[-1] or key[-2] != value[-2]:
            raise ValueError(
                f"query {sizes_text(query)}, key {sizes_text(key)} and value {sizes_text(value)} do not fit"
            )
        if use.get("enable_gqa") and len(query) > 2:
            return (*query[:-1], value[-1])
        return (*broadcast(query[:-2], key[:-2], value[:-2]), query[-2], value[-1])

    def macs(self, use: OperatorUse) -> int:
        *leading, queries, width = self.output(use)
        return math.prod(leading) * queries * use["key"][-2] * (use["query"][-1] + width)

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        rank = len(self.output(use))
        kept = {rank - 2} if use.get("is_causal") else set()
        if use.get("enable_gqa"):
            kept.add(rank - 3)
        return {axis: 1 for axis in range(rank) if axis not in kept}

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        *leading, queries, columns = region.ranges
        keys, width = (0, use["key"][-2]), (0, use["query"][-1])
        wanted = {
            "query": (*leading, queries, width),
            "key": (*leading, keys, width),
            "value": (*leading, keys, columns),
            "attn_mask": (*leading, queries, keys),
        }
        regions = {role: _matrix(wanted[role], dims) for role, dims in use.inputs.items()}
        # a part of the columns of `value` leaves the width of `query`, and so the scale, as it is
        return exactly(regions, use.attributes, region.dims)

    def priced(self, use: OperatorUse) -> tuple[Operator, ...]:
        *leading, queries, width = self.output(use)
        rows, keys = math.prod(leading) * queries, use["key"][-2]
        return (_rows_of_linear(rows, use["query"][-1], keys), _rows_of_linear(rows, keys, width))


class Embedding(GraphOperator):
    """Rows of a ``weight`` table by ``indices``."""

    def output(self, use: OperatorUse) -> Dims:
        if len(use["weight"]) != 2:
            raise ValueError(f"{sizes_text(use['weight'])} is no table")
        return (*use["indices"], use["weight"][1])

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        return dict.fromkeys(range(len(use["indices"]) + 1), 1)

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        *rows, columns = region.ranges
        regions = {"weight": Region(((0, use["weight"][0]), columns)), "indices": Region(tuple(rows))}
        return exactly(regions, use.attributes, region.dims)

    def calls(self, use: OperatorUse) -> tuple[AtenCall, ...]:
        return (AtenCall(self.aten[0], {role: role for role in use.inputs}, {}),)


def _matrix(ranges: tuple[tuple[int, int], ...], dims: Dims) -> Region:
    """The region of an operand whose axes, each of full size or 1, are broadcast."""
    return broadcast_region(ranges, dims)


def _rows_of_linear(rows: int, inputs: int, outputs: int) -> Operator:
    """A fully connected layer on several rows, which is a 1x1 convolution over them."""
    return Operator("linear", inputs, outputs) if rows == 1 else Operator("conv", inputs, outputs, height=rows)
