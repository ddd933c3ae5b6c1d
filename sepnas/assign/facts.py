"""Facts of a graph that an assignment search reads again and again, and the units to which it gives layouts."""

from __future__ import annotations

from sepnas.partition.graph import Graph, GraphNode


class GraphFacts:
    """Makers, readers and last uses of tensors, by name; nodes by their place.

    ``units`` are runs of places that get their layout together: an operator, and those behind it that work on single
    values and read nothing else, such as a norm or an activation.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.nodes = graph, graph.nodes
        self.stored = graph.stored
        self.makers = {name: place for place, node in enumerate(self.nodes) for name in node.outputs}
        self.operands = tuple(self._operands(node) for node in self.nodes)
        self.readers: dict[str, int] = {}
        self.last: dict[str, int] = {}
        for place, operands in enumerate(self.operands):
            for name in operands:
                self.readers[name] = self.readers.get(name, 0) + 1
                self.last[name] = place
        for output in graph.outputs:
            self.readers[output.tensor] = self.readers.get(output.tensor, 0) + 1
            self.last[output.tensor] = len(self.nodes)
        self.units = tuple(self._units())

    def _operands(self, node: GraphNode) -> tuple[str, ...]:
        """The tensors that a node takes and that are no weights, each once."""
        return tuple(dict.fromkeys(name for name in node.inputs.values() if name not in self.stored))

    def ended(self, place: int) -> tuple[str, ...]:
        """The tensors that nobody reads after a place."""
        node = self.nodes[place]
        return tuple(name for name in (*self.operands[place], *node.outputs) if self.last.get(name, place) <= place)

    def _units(self) -> list[tuple[int, ...]]:
        found: list[list[int]] = []
        for place in range(len(self.nodes)):
            if found and self._follows(place, found[-1][-1]):
                found[-1].append(place)
            else:
                found.append([place])
        return [tuple(each) for each in found]

    def _follows(self, place: int, before: int) -> bool:
        """Whether a node works on the single values of the one before it, which nothing else reads."""
        operands, made = self.operands[place], self.nodes[before].outputs
        if operands != made or len(made) > 1 or self.readers[made[0]] > 1:
            return False
        node = self.nodes[place]
        same = self.graph.tensors[operands[0]].dims == self.graph.tensors[node.outputs[0]].dims
        return same and node.kind is not None and len(node.outputs) == 1 and not self.graph.macs_of(node)
