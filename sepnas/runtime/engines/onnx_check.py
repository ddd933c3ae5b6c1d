"""What an ``.onnx`` graph of a segment may hold: a list of operators on tensors whose sizes are known beforehand.

onnxruntime reads files that a graph names, runs loops and operators of other domains, and makes tensors of any size. So
the graph is looked through first, and the shape of all that it makes is worked out. Needs no package ``onnx``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import prod

from sepnas.deployment.engines.graph import CheckedGraph, Node, ShapeOf
from sepnas.deployment.manifest import MAX_PASS_VALUES, WEIGHTS_NAME
from sepnas.runtime.engines.onnx_numbers import SIZES, worked_out
from sepnas.runtime.engines.onnx_shapes import OPERATORS as LAYERS
from sepnas.runtime.engines.onnx_shapes import scratch_values
from sepnas.runtime.engines.onnx_tensors import BY_NUMBERS, SHAPES, SPLIT, split_shapes
from sepnas.runtime.engines.protobuf import fields, packed
from sepnas.runtime.protocol.connection import MAX_BATCH

MAX_NODES = 20_000
_MODEL = {1: "ir_version", 2: "producer_name", 3: "producer_version", 4: "domain", 5: "model_version", 7: "graph"}
_MODEL |= {6: "doc_string", 8: "opset_import", 14: "metadata_props"}
_GRAPH = {1: "node", 2: "name", 5: "initializer", 10: "doc_string", 11: "input", 12: "output", 13: "value_info"}
_GRAPH |= {16: "metadata_props"}
_NODE = {1: "input", 2: "output", 3: "name", 4: "op_type", 5: "attribute", 6: "doc_string", 7: "domain"}
_NODE |= {9: "metadata_props"}
_ATTRIBUTE = {1: "name", 2: "f", 3: "i", 4: "s", 7: "floats", 8: "ints", 13: "doc_string", 20: "type"}
_TENSOR = {1: "dims", 2: "data_type", 4: "float_data", 5: "int32_data", 7: "int64_data", 8: "name", 9: "raw_data"}
_TENSOR |= {10: "double_data", 11: "uint64_data", 12: "doc_string", 13: "external_data", 14: "data_location"}
_TENSOR |= {16: "metadata_props"}
_VALUE = {1: "name", 2: "type", 3: "doc_string", 4: "metadata_props"}
_ENTRY = {1: "key", 2: "value"}
_OPSET = {1: "domain", 2: "version"}
_OPSETS = range(18, 31)
"""Versions of ONNX's operators that have the shapes worked out here: before, many attributes are inputs now."""
_DATA = ("float_data", "int32_data", "int64_data", "raw_data", "double_data", "uint64_data")
_KINDS = {1: "f", 2: "i", 3: "s", 6: "floats", 7: "ints"}
"""Where an attribute of each type holds its value."""
_MAX_DIMS = 8
_MAX_AXES_BYTES = 128
_FLOAT, _INT64 = 1, 7
_FLOAT_BYTES = 4
_WORDS = {
    "DepthToSpace": {"DCR", "CRD"},
    "Gelu": {"none", "tanh"},
    "Pad": {"constant", "edge", "reflect"},
    "Resize": {
        *("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"),
        *("nearest", "linear", "cubic", "floor", "round_prefer_floor", "stretch"),
    },
}
"""The words that attributes of an operator may be; of others they are NOTSET."""
OPERATORS = {**LAYERS, **SHAPES}
"""The operators whose shapes follow from those of their inputs."""
_NAMES = frozenset((*OPERATORS, *BY_NUMBERS, SPLIT, SIZES))


def check_onnx_graph(graph: bytes, inputs: Mapping[str, ShapeOf], weights: Mapping[str, ShapeOf]) -> dict[str, ShapeOf]:
    """The shapes of a graph's outputs by name, for one sample of ``inputs``; ``weights`` are put in for its
    initializers. For many samples no tensor may grow faster than their number.

    Raises :class:`ValueError` that says why it is none that `sepnas export` writes.
    """
    checked = read_onnx_graph(graph, inputs, weights)
    check_onnx_batch(graph, inputs, weights, MAX_BATCH, checked)
    return {name: checked.shapes[name] for name in checked.outputs}


def check_onnx_batch(
    graph: bytes, inputs: Mapping[str, ShapeOf], weights: Mapping[str, ShapeOf], samples: int, one: CheckedGraph
) -> None:
    """Raise :class:`ValueError` if a graph makes a tensor of ``samples`` samples that has more values than that number
    times ``one`` sample's."""
    many = {name: (samples * shape[0], *shape[1:]) for name, shape in inputs.items()}
    for name, shape in read_onnx_graph(graph, many, weights, samples).shapes.items():
        if prod(shape) > samples * prod(one.shapes[name]):
            raise ValueError(f"makes a tensor '{name[:80]}' that grows faster than the number of samples")


def depends_on_sizes(graph: CheckedGraph) -> bool:
    """Whether shapes depend on numbers that the graph works out from sizes, so that those for few and for many samples
    say nothing of the number between."""
    return any(node.operator == SIZES for node in graph.nodes)


def read_onnx_graph(
    graph: bytes, inputs: Mapping[str, ShapeOf], weights: Mapping[str, ShapeOf], samples: int = 1
) -> CheckedGraph:
    """The operators of a graph and the shapes of its tensors, as :func:`check_onnx_graph` looks through them.

    Raises :class:`ValueError` that says why it is none that `sepnas export` writes.
    """
    parts = _message(memoryview(graph), _MODEL, "model")
    if len(parts["graph"]) != 1:
        raise ValueError("has no graph, or more than one")
    content = _message(_bytes(parts["graph"][0]), _GRAPH, "graph")
    if len(content["node"]) > MAX_NODES:
        raise ValueError(f"has {len(content['node']):,} operators; at most {MAX_NODES:,} are run")
    shapes, axes, numbers = _initializers([_bytes(each) for each in content["initializer"]], weights)
    names = [_text(_message(_bytes(each), _VALUE, "input")["name"]) for each in content["input"]]
    if names != [*inputs] or any(name in shapes for name in names):
        raise ValueError(f"takes {', '.join(names)[:200] or 'no input'}; the manifest says {', '.join(inputs)}")
    shapes.update(inputs)
    nodes = [_node(_bytes(each)) for each in content["node"]]
    _add_shapes(nodes, shapes, axes, samples * MAX_PASS_VALUES)
    outputs = [_text(_message(_bytes(each), _VALUE, "output")["name"]) for each in content["output"]]
    if not outputs or any(name not in shapes for name in outputs):
        raise ValueError("has no output, or one that nothing makes")
    _check_opset([_bytes(each) for each in parts["opset_import"]])
    return CheckedGraph(tuple(nodes), tuple(names), tuple(outputs), shapes, axes, numbers)


def _check_opset(imports: Sequence[memoryview]) -> None:
    """Other domains may be named: none of their operators is run."""
    found = [_message(each, _OPSET, "version of operators") for each in imports]
    own = [each["version"] for each in found if _text(each["domain"]) in ("", "ai.onnx")]
    versions = [version for each in own for version in each[-1:] or [0]]
    if len(versions) != 1 or versions[0] not in _OPSETS:
        raise ValueError(f"is of versions {versions} of ONNX's operators, not of one in {_OPSETS[0]}..{_OPSETS[-1]}")


def _add_shapes(nodes: Sequence[Node], shapes: dict[str, ShapeOf], axes: Mapping[str, list[int]], most: int) -> None:
    """The shapes of all that the nodes make, which together have ``most`` values."""
    made, known = 0, dict(axes)
    for node in nodes:
        if any(name in shapes for name in node.outputs):
            raise ValueError(f"has an operator {node.operator} that makes what is there already")
        for name, shape in zip(node.outputs, _outputs(node, shapes, known), strict=True):
            shapes[name] = shape
            made += prod(shape)
        if (held := made + scratch_values(node, shapes)) > most:
            raise ValueError(f"makes tensors of {held:,} values (the last by {node.operator}); at most {most:,}")


def _message(data: memoryview, names: Mapping[int, str], what: str) -> dict[str, list[int | float | memoryview]]:
    found: dict[str, list[int | float | memoryview]] = {name: [] for name in names.values()}
    for number, value in fields(data):
        if number not in names:
            raise ValueError(f"its {what} holds field {number}, which no segment has")
        found[names[number]].append(value)
    return found


def _initializers(
    tensors: Sequence[memoryview], weights: Mapping[str, ShapeOf]
) -> tuple[dict[str, ShapeOf], dict[str, list[int]], dict[str, float]]:
    """The shapes of all, by name; the values of those that are few whole numbers (axes), and of single fractions."""
    shapes: dict[str, ShapeOf] = {}
    axes: dict[str, list[int]] = {}
    numbers: dict[str, float] = {}
    for data in tensors:
        tensor = _message(data, _TENSOR, "initializer")
        name = _text(tensor["name"])
        if name in shapes:
            raise ValueError(f"has two initializers '{name[:80]}'")
        shapes[name] = dims = _shape(name, tensor)
        held = sum(len(_bytes(value)) for key in _DATA for value in tensor[key] if not isinstance(value, int))
        if any(tensor["data_location"]) or tensor["external_data"]:
            _check_external(name, dims, tensor, weights)
        elif prod(dims) > held:
            raise ValueError(f"initializer '{name[:80]}' has {prod(dims):,} values in {held:,} bytes")
        elif len(raw := _bytes([*tensor["raw_data"], memoryview(b"")][0])) != held:
            continue
        elif tensor["data_type"] == [_INT64] and held == 8 * prod(dims) <= _MAX_AXES_BYTES:
            axes[name] = list(struct.unpack(f"<{prod(dims)}q", raw))
        elif tensor["data_type"] == [_FLOAT] and held == _FLOAT_BYTES and not dims:
            (numbers[name],) = struct.unpack("<f", raw)
    return shapes, axes, numbers


def _shape(name: str, tensor: Mapping[str, list[int | float | memoryview]]) -> ShapeOf:
    dims = tuple(number for value in tensor["dims"] for number in packed(value))
    if len(dims) > _MAX_DIMS or min([*dims, 0]) < 0 or prod(dims) > MAX_PASS_VALUES:
        raise ValueError(f"initializer '{name[:80]}' has a shape that no tensor has")
    return dims


def _check_external(
    name: str, dims: ShapeOf, tensor: Mapping[str, list[int | float | memoryview]], weights: Mapping[str, ShapeOf]
) -> None:
    entries = [_message(_bytes(entry), _ENTRY, "external data") for entry in tensor["external_data"]]
    told = [(_text(entry["key"]), _text(entry["value"])) for entry in entries]
    if told != [("location", WEIGHTS_NAME)] or name not in weights:
        raise ValueError(f"initializer '{name[:80]}' lies in another file: {str(told)[:80]}")
    if weights[name] != dims:
        raise ValueError(f"takes a tensor of shape {dims} as '{name}', but {WEIGHTS_NAME} has {weights[name]} there")


def _node(data: memoryview) -> Node:
    parts = _message(data, _NODE, "operator")
    names = {_text([value]) for value in parts["op_type"]}
    domains = {_text([value]) for value in parts["domain"]} - {""}
    if domains or len(names) != 1 or not names <= _NAMES:
        said = "', '".join([*sorted(names), *(f"of domain {name}" for name in sorted(domains))])[:80]
        raise ValueError(f"uses operator '{said}'; operators of a segment are {', '.join(sorted(_NAMES))}")
    node = Node(names.pop(), [_text([each]) for each in parts["input"]], [_text([each]) for each in parts["output"]])
    if not node.inputs or not node.outputs:
        raise ValueError(f"has an operator {node.operator} without an input or an output")
    for each in parts["attribute"]:
        attribute = _message(_bytes(each), _ATTRIBUTE, f"attribute of {node.operator}")
        name = _text(attribute["name"])
        if name in node.numbers:
            raise ValueError(f"has attribute '{name[:80]}' of {node.operator} twice")
        _check_kind(name, attribute)
        for fraction in attribute["f"]:
            if isinstance(fraction, float):
                node.fractions[name] = fraction
        node.numbers[name] = [number for key in ("i", "ints") for value in attribute[key] for number in packed(value)]
        if attribute["s"] and _text(attribute["s"]) not in _WORDS.get(node.operator, {"NOTSET"}):
            raise ValueError(f"has an attribute of {node.operator} that no segment has: {_text(attribute['s'])[:80]!r}")
    return node


def _check_kind(name: str, attribute: Mapping[str, list[int | float | memoryview]]) -> None:
    """Only the field that its type names holds anything, so that all readers take the same."""
    kinds = [_KINDS.get(kind) for kind in attribute["type"] if isinstance(kind, int)]
    used = [key for key in _KINDS.values() for _ in attribute[key]]
    many = len(used) > 1 and kinds[:1] not in (["ints"], ["floats"])
    whole = all(isinstance(value, int) for value in attribute["i"])
    if len(kinds) != 1 or many or not whole or not {*used} <= {*kinds}:
        raise ValueError(f"has attribute '{name[:80]}' whose value is not of its type")


def _outputs(node: Node, shapes: Mapping[str, ShapeOf], known: dict[str, list[int]]) -> list[ShapeOf]:
    """The shapes of what a node makes; whole numbers that it makes of sizes are added to those that are known."""
    missing = [name for name in node.inputs if name and name not in shapes]
    if missing:
        raise ValueError(f"has an operator {node.operator} that takes '{missing[0][:80]}', which nothing makes")
    taken, numbers = [shapes.get(name, ()) for name in node.inputs], [known.get(name) for name in node.inputs]
    if (worked := worked_out(node, taken, numbers)) is not None:
        known[node.outputs[0]] = worked[0]
        return [worked[1]]
    if node.operator == SPLIT:
        return split_shapes(node, taken, numbers)
    if node.operator in BY_NUMBERS:
        return [BY_NUMBERS[node.operator](node, taken, numbers)]
    return [OPERATORS[node.operator](node, taken)]


def _bytes(value: int | float | memoryview) -> memoryview:
    if not isinstance(value, memoryview):
        raise ValueError("a number where a message is expected")
    return value


def _text(values: Sequence[int | float | memoryview]) -> str:
    """The last of several, as Protocol Buffers has it; none is empty."""
    return bytes(_bytes(values[-1])).decode() if values else ""
