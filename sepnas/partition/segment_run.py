"""A segment while a graph is lowered: parts of operators that a device computes one after the other."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sepnas.partition.parts import NodePart
from sepnas.plan.kinds.kind import Attributes, Dims, whole
from sepnas.plan.plan import Segment, WeightSlice
from sepnas.plan.segment_node import SegmentNode, frozen
from sepnas.plan.shapes import FLOAT_BYTES

_NAME_CHARACTERS = 80


@dataclass(frozen=True)
class Entry:
    """One operator: a part of a node of the graph, or a slice of what ``layer`` needs."""

    layer: str
    operator: str
    operands: Mapping[str, str | WeightSlice]
    outputs: tuple[str, ...]
    shapes: tuple[Dims, ...]
    attributes: Attributes
    part: NodePart | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(name for name in self.operands.values() if isinstance(name, str))


@dataclass
class SegmentRun:
    """Operators in the order of computation; tensors have their names on the device."""

    entries: list[Entry] = field(default_factory=list)

    @property
    def made(self) -> tuple[str, ...]:
        return tuple(name for entry in self.entries for name in entry.outputs)

    @property
    def reads(self) -> tuple[str, ...]:
        """The tensors that it takes from outside, in the order of their first use."""
        made = set(self.made)
        return tuple(dict.fromkeys(name for entry in self.entries for name in entry.reads if name not in made))

    def add(self, part: NodePart, names: Mapping[str, str], outputs: tuple[str, ...]) -> None:
        """Append a part; ``names`` are its tensors by role, and its other operands are weights."""
        node = part.node
        operands = {
            role: names[role] if role in names else WeightSlice(node.inputs[role], region)
            for role, region in part.needs.items()
        }
        self.entries.append(
            Entry(node.name, node.operator, operands, outputs, part.smaller.shapes, part.smaller.found.attributes, part)
        )

    def add_slice(self, layer: str, name: str, output: str, dims: Dims, attributes: Attributes) -> None:
        """Append a slice of a tensor that an earlier operator makes."""
        self.entries.append(Entry(layer, "slice", {"self": name}, (output,), (dims,), attributes))

    def keep(self, read: Collection[str]) -> None:
        """Leave out the operators whose outputs nothing reads: neither a later one nor a step that reads ``read``."""
        wanted, kept = set(read), list[Entry]()
        for entry in reversed(self.entries):
            if not wanted.isdisjoint(entry.outputs):
                wanted.update(entry.reads)
                kept.append(entry)
        self.entries = kept[::-1]

    def segment(self, rank: int, outputs: tuple[str, ...], taken: Collection[str]) -> Segment:
        """The segment that makes ``outputs``, under a name that is not ``taken``."""
        ports = dict(zip(self.reads, _ports("x", len(self.reads)), strict=True))
        ports |= dict(zip(outputs, _ports("y", len(outputs)), strict=True))
        parts = [entry.part for entry in self.entries if entry.part is not None]
        weights = tuple(
            dict.fromkeys(
                each for entry in self.entries for each in entry.operands.values() if isinstance(each, WeightSlice)
            )
        )
        macs = [part.macs for part in parts]
        return Segment(
            name=_name(self.entries, taken),
            device=rank,
            layers=tuple(dict.fromkeys(entry.layer for entry in self.entries)),
            flops=2 * sum(macs),
            num_kernels=sum(each > 0 for each in macs),
            weight_bytes=FLOAT_BYTES * sum(weight.region.num_values for weight in weights),
            activation_bytes=self._peak_bytes(),
            operators=tuple(each for part in parts for each in part.smaller.operators),
            weights=weights,
            inputs=tuple(ports[name] for name in self.reads),
            outputs=tuple(ports[name] for name in outputs),
            nodes=_nodes(self.entries, ports, weights),
        )

    def _peak_bytes(self) -> int:
        """The peak of the tensors that it makes, each of which lives until its last use here."""
        sizes = {
            name: whole(dims).num_values
            for entry in self.entries
            for name, dims in zip(entry.outputs, entry.shapes, strict=True)
        }
        last = {name: at for at, entry in enumerate(self.entries) for name in (*entry.reads, *entry.outputs)}
        held = most = 0
        for at, entry in enumerate(self.entries):
            held += sum(sizes[name] for name in entry.outputs)
            most = max(most, held)
            held -= sum(sizes.get(name, 0) for name in {*entry.reads, *entry.outputs} if last[name] == at)
        return FLOAT_BYTES * most


def _ports(letter: str, count: int) -> tuple[str, ...]:
    return (letter,) if count == 1 else tuple(f"{letter}{place}" for place in range(count))


def _nodes(
    entries: Sequence[Entry], ports: Mapping[str, str], weights: Sequence[WeightSlice]
) -> tuple[SegmentNode, ...]:
    """The segment's graph: tensors have the names of its ports, or numbers."""
    names, places = dict(ports), {weight: place for place, weight in enumerate(weights)}
    for output in (name for entry in entries for name in entry.outputs):
        names.setdefault(output, f"t{len(names)}")
    return tuple(
        SegmentNode(
            entry.layer,
            entry.operator,
            {r: names[each] if isinstance(each, str) else places[each] for r, each in entry.operands.items()},
            tuple(names[each] for each in entry.outputs),
            entry.shapes,
            {name: frozen(value) for name, value in entry.attributes.items()},
            None if entry.part is None else entry.part.region,
            None if entry.part is None else entry.part.terms,
        )
        for entry in entries
    )


def _name(entries: Sequence[Entry], taken: Collection[str]) -> str:
    """A name made of the first and the last layer."""
    ends = (re.sub(r"[^A-Za-z0-9_]+", "_", entries[place].layer)[:_NAME_CHARACTERS] for place in (0, -1))
    plain = "-".join(dict.fromkeys(ends))
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}.{number}"
    return name
