"""Graphs from anywhere: any attributes of any operator give a graph, or an error of ours."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sepnas.errors import SpecError
from sepnas.partition.graph import Graph
from sepnas.plan.kinds.kind import OperatorUse
from sepnas.plan.kinds.registry import GRAPH_OPERATORS
from sepnas.plan.shapes import Region

NAMES = (
    *("stride", "padding", "dilation", "groups", "output_padding", "kernel_size", "ceil_mode", "output_size", "dim"),
    *("dims", "size", "index", "start", "end", "step", "pad", "mode", "num_groups", "normalized_shape", "keepdim"),
    *(
        "repeats",
        "dimension",
        "upscale_factor",
        "downscale_factor",
        "align_corners",
        "is_causal",
        "enable_gqa",
        "alpha",
    ),
)
ROLES = (
    "input",
    "self",
    "weight",
    "bias",
    "other",
    "mat2",
    "query",
    "key",
    "value",
    "tensors.0",
    "tensors.1",
    "indices",
)
numbers = st.one_of(st.integers(-3, 9), st.sampled_from([0, 1 << 40, -(1 << 40), 1.5, True, "same", "inf"]))
values = st.one_of(numbers, st.lists(numbers, max_size=4), st.lists(st.lists(numbers, max_size=2), max_size=3))
shapes = st.lists(st.integers(1, 6), max_size=5)
IN_ERROR = (ValueError, TypeError, IndexError, StopIteration, ArithmeticError)
"""What the check of a graph turns into an error of ours."""


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(GRAPH_OPERATORS)),
    st.dictionaries(st.sampled_from(NAMES), values, max_size=5),
    st.dictionaries(st.sampled_from(ROLES), shapes.map(tuple), min_size=1, max_size=4),
)
def test_any_attributes_fit_or_are_refused(
    name: str, attributes: dict[str, Any], operands: dict[str, tuple[int, ...]]
) -> None:
    """Whatever an operator's attributes and operands are, its shape is known or a plain error says what is wrong."""
    kind, use = GRAPH_OPERATORS[name], OperatorUse(attributes, operands)
    try:
        dims = kind.output(use)
    except IN_ERROR:
        return
    if all(isinstance(size, int) and 0 < size < 1 << 20 for size in dims):
        kind.restrict(use, Region(tuple((0, 1) for _ in dims)))
        assert kind.macs(use) >= 0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.dictionaries(st.sampled_from(NAMES), values, max_size=5),
    st.sampled_from(sorted(GRAPH_OPERATORS)),
    shapes,
    shapes,
)
def test_any_node_is_read_or_refused(
    attributes: dict[str, Any], operator: str, taken: list[int], made: list[int]
) -> None:
    """A document with such a node is a graph, or an error that names its node or field."""
    axes = "NCHWD"
    data = {
        "name": "a", "source": "b", "inputs": ["x"], "outputs": [{"name": "y", "tensor": "y"}], "weights": [],
        "nodes": [
            {"name": "y", "operator": operator, "inputs": {"self": "x"}, "outputs": ["y"], "attributes": attributes}
        ],
        "tensors": {
            "x": {"axes": axes[: len(taken)], "dims": taken}, "y": {"axes": axes[: len(made)], "dims": made}
        },
    }  # fmt: skip
    try:
        graph = Graph.from_data(data, "graph.json")
    except SpecError as error:
        said = str(error)
        assert "node 'y'" in said or "field" in said
    else:
        assert Graph.from_data(graph.to_data()) == graph
