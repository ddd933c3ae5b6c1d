"""The choice of layouts as an integer program for HiGHS (scipy): what the search would have to beat.

One binary for each unit and layout, one number for each pair of layouts of a tensor's maker and reader, which the
binaries force to 0 or 1. The program knows sums and bottlenecks: bytes; the busy time of each device and wire
(throughput); weights and the largest operator of each device (peak memory). It does not know that devices wait, or
which tensors live at the same time. A tensor that several operators read is counted for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from sepnas.assign.cells import NodeCell
from sepnas.assign.mixing import Mixer
from sepnas.assign.search import AssignmentSearch
from sepnas.assign.transfers import RegionTransfer, Transfers
from sepnas.cost.routes import routes_of
from sepnas.plan.kinds.kind import whole
from sepnas.plan.shapes import FLOAT_BYTES
from sepnas.plan.steps import CLIENT
from sepnas.plan.wire import FRAME_HEADER_BYTES

OBJECTIVES = ("total_bytes", "throughput", "peak_memory")
_LOADS = {"total_bytes": ("bytes",), "throughput": ("busy", "wire"), "peak_memory": ("memory",)}
"""The loads of which an objective is the largest; of bytes there is one."""


@dataclass
class _Program:
    """Variables from 0 to ``upper`` and rows of ``low <= sum <= high``; the last variable is minimised."""

    integral: list[int] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    rows: list[tuple[Mapping[int, float], float, float]] = field(default_factory=list)

    def variable(self, integral: int = 0, upper: float = math.inf) -> int:
        self.integral.append(integral)
        self.upper.append(upper)
        return len(self.upper) - 1

    def row(self, terms: Mapping[int, float], low: float = -math.inf, high: float = math.inf) -> None:
        self.rows.append((terms, low, high))

    def solved(self, limit_s: float) -> tuple[Any, bool]:
        """The best values that were found, None if there are none, and whether they are proved to be optimal."""
        at = [(row, column, value) for row, (terms, _, _) in enumerate(self.rows) for column, value in terms.items()]
        places, columns, values = zip(*at, strict=True)
        matrix = coo_array((values, (places, columns)), shape=(len(self.rows), len(self.upper))).tocsr()
        low, high = (np.array(each) for each in zip(*((low, high) for _, low, high in self.rows), strict=True))
        found = milp(
            np.eye(1, len(self.upper), len(self.upper) - 1)[0],
            integrality=np.array(self.integral),
            bounds=Bounds(0, np.array(self.upper)),
            constraints=LinearConstraint(matrix, low, high),
            options={"time_limit": limit_s, "mip_rel_gap": 1e-9},
        )
        return found.x, found.status == 0


class Choice:
    """The program of one mixer's units."""

    def __init__(self, search: AssignmentSearch, mixer: Mixer, objective: str) -> None:
        self.search, self.mixer, self.facts = search, mixer, search.estimator.facts
        self.transfers = Transfers(self.facts, search.cluster, search.wire)
        self.routes = routes_of(search.cluster)
        self.program, self.loads = _Program(), dict[tuple[str, int], dict[int, float]]()
        self.taken = [[self.program.variable(1, 1) for _ in choices] for choices in mixer.choices]
        for own in self.taken:
            self.program.row(dict.fromkeys(own, 1.0), 1, 1)
        self._add_cells()
        self._add_pairs()
        self._minimise(_LOADS[objective])

    def solved(self, limit_s: float) -> tuple[tuple[int, ...] | None, bool]:
        """The number of a layout for each unit, and whether the program's measure of it is proved to be the best."""
        values, proved = self.program.solved(limit_s)
        if values is None:
            return None, False
        return tuple(int(np.argmax(values[own])) for own in self.taken), proved

    def _load(self, kind: str, number: int, variable: int, amount: float) -> None:
        terms = self.loads.setdefault((kind, number), {})
        terms[variable] = terms.get(variable, 0.0) + amount

    def _add_cells(self) -> None:
        """What each layout of a unit costs by itself."""
        largest = [self.program.variable() for _ in self.search.cluster.devices]
        for device, variable in enumerate(largest):
            self._load("memory", device, variable, 1.0)
        for unit, choices in enumerate(self.mixer.choices):
            for at in range(len(choices[0])):
                values = dict[int, dict[int, float]]()
                for variable, cells in zip(self.taken[unit], choices, strict=True):
                    self._add_cell(variable, cells[at], values)
                for device, terms in values.items():
                    self.program.row({**{each: -size for each, size in terms.items()}, largest[device]: 1.0}, low=0)

    def _add_cell(self, variable: int, cell: NodeCell, values: dict[int, dict[int, float]]) -> None:
        for device, nbytes in _values(cell).items():
            values.setdefault(device, {})[variable] = float(nbytes)
        for device, nbytes in cell.weight_bytes:
            self._load("memory", device, variable, nbytes)
        for device, spent_s in cell.seconds:
            self._load("busy", device, variable, spent_s)
        node = self.facts.nodes[cell.place]
        if cell.layout.spans:
            self._send(variable, self.transfers.partial(cell, node.outputs[0]))
        for tensor in self.facts.operands[cell.place]:
            if tensor in self.search.graph.inputs:
                self._send(variable, self.transfers.from_client(tensor, cell))
        for output in self.search.graph.outputs:
            if output.tensor in node.outputs:
                everything = whole(self.search.graph.tensors[output.tensor].dims)
                device = next((each for each, region in cell.layout.pieces if region == everything), 0)
                self._send(variable, self.transfers.gathered(output.tensor, cell, device))

    def _send(self, variable: int, messages: Iterable[RegionTransfer] | None) -> None:
        """Messages that are sent if a variable is 1; None: they are impossible."""
        if messages is None:
            self.program.row({variable: 1.0}, 0, 0)
            return
        for source, device, nbytes, _ in messages:
            self._load("bytes", 0, variable, nbytes)
            route = self.routes[source, device] if source != CLIENT else None
            if route is not None:
                spent_s = route.message_overhead_s + (nbytes + FRAME_HEADER_BYTES) / route.bandwidth_bytes_per_s
                for wire in route.resources:
                    self._load("wire", wire, variable, spent_s)

    def _add_pairs(self) -> None:
        at = {
            cell.place: (unit, number)
            for unit, choices in enumerate(self.mixer.choices)
            for number, cell in enumerate(choices[0])
        }
        for place, operands in enumerate(self.facts.operands):
            for tensor in operands:
                if tensor in self.facts.makers:
                    self._add_tensor(tensor, at[self.facts.makers[tensor]], at[place])

    def _add_tensor(self, tensor: str, maker: tuple[int, int], reader: tuple[int, int]) -> None:
        (one, first), (other, second) = maker, reader
        made = [cells[first] for cells in self.mixer.choices[one]]
        read = [cells[second] for cells in self.mixer.choices[other]]
        between: Callable[[NodeCell, NodeCell], Any] = lambda a, b: self.transfers.between(tensor, a, b)  # noqa: E731
        if one == other:
            for variable, own, next_ in zip(self.taken[one], made, read, strict=True):
                self._send(variable, between(own, next_))
            return
        both = [[self.program.variable(upper=1) for _ in read] for _ in made]
        self._tie(both, self.taken[one])
        self._tie([*map(list, zip(*both, strict=True))], self.taken[other])
        for line, own in zip(both, made, strict=True):
            for variable, next_ in zip(line, read, strict=True):
                self._send(variable, between(own, next_))

    def _tie(self, lines: Sequence[Sequence[int]], taken: Sequence[int]) -> None:
        """One number of a line is 1 if the layout of the line is taken."""
        for line, own in zip(lines, taken, strict=True):
            self.program.row({**dict.fromkeys(line, 1.0), own: -1.0}, 0, 0)

    def _minimise(self, kinds: tuple[str, ...]) -> None:
        rows = [terms for (kind, _), terms in self.loads.items() if kind in kinds]
        unit = max(max(terms.values()) for terms in rows)
        most = self.program.variable()
        for terms in rows:
            self.program.row({**{each: -amount / unit for each, amount in terms.items()}, most: 1.0}, low=0)


def _values(cell: NodeCell) -> dict[int, int]:
    """The bytes that an operator reads and makes on each device."""
    found = dict(cell.made_bytes)
    for needs in cell.needs.values():
        for device, regions in needs.items():
            found[device] = found.get(device, 0) + FLOAT_BYTES * sum(region.num_values for region in regions)
    return found
