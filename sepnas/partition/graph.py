"""A network as a document without torch, ``sepnas.graph``: operators in order, shapes with named axes, weight names.

The weights lie beside it in a safetensors file, under the names that the graph has for them. Every shape holds the
batch axis ``N``, which has size 1: a graph is the computation for one sample (of several:
:mod:`sepnas.partition.batches`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from sepnas.errors import SpecError
from sepnas.partition.checks import check_order, check_shapes
from sepnas.plan.data import MAX_JOINED, Attribute, OperatorName, Role, ShapeData, TensorName, WithoutDefaults
from sepnas.plan.kinds.derived import DerivedUse
from sepnas.plan.kinds.kind import GraphOperator, OperatorUse
from sepnas.plan.kinds.registry import GRAPH_OPERATORS
from sepnas.spec.document import Document, Part
from sepnas.spec.figures import ONE_LINE, Fit, Index, Size, Text
from sepnas.spec.files import is_there
from sepnas.spec.preparation import Interpolation, Preparation, Scaling
from sepnas.spec.recognise import format_of

GRAPH_NAME, WEIGHTS_NAME = "graph.json", "weights.safetensors"
MAX_NODES = 20_000
MAX_GRAPH_PORTS = 256
MAX_CROP = 4
"""A share above 1 leaves a black border around the scaled image."""
OutputName = Annotated[str, Field(max_length=200, pattern=r"^\w[\w.-]*$")]
Dtype = Literal[
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64"
]  # fmt: skip


class GraphTensor(ShapeData, WithoutDefaults):
    """The shape and the data type of a tensor."""

    dtype: Dtype = "float32"

    @property
    def can_be_sent(self) -> bool:
        """Whether devices may exchange it: it begins with the axis of samples, and holds fp32."""
        return self.dims[:1] == (1,) and self.dtype == "float32"


class GraphNode(WithoutDefaults):
    """One operator. ``operator`` is a registered kind, or ``aten.`` and an overload: an opaque operator.

    ``inputs`` are tensors by role, weights included; ``module`` is the path of the module that it comes from.
    """

    name: TensorName
    operator: OperatorName
    inputs: Annotated[dict[Role, TensorName], Field(max_length=MAX_JOINED)]
    outputs: Annotated[tuple[TensorName, ...], Field(min_length=1, max_length=MAX_JOINED)]
    attributes: Annotated[dict[Role, Attribute], Field(max_length=64, default_factory=dict)]
    module: Annotated[str, Field(max_length=500, pattern=rf"{ONE_LINE}|^$")] = ""

    @property
    def kind(self) -> GraphOperator | None:
        """The registered kind; None for an opaque operator."""
        return GRAPH_OPERATORS.get(self.operator)


class GraphOutput(Part):
    """A named output of the network."""

    name: OutputName
    tensor: TensorName


class NetworkTraits(WithoutDefaults):
    """What is known of the network besides its graph: how images are prepared, and what its outputs mean.

    ``mean`` and ``std`` are per channel, of values in 0..1; ``size`` is height and width in pixels.

    With an ``interpolation``, images are scaled by it to ``size / crop``, rounded down, in the way of ``fit``, and
    their centre is cut out: ``crop`` is the share of the scaled side that is kept. Without one, images of another size
    are treated as in training by sepnas (``resize``).
    """

    classes: Annotated[tuple[Text, ...], Field(max_length=1 << 16)] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    size: tuple[Size, Size] | None = None
    crop: Annotated[float, Field(gt=0, le=MAX_CROP)] | None = None
    interpolation: Interpolation | None = None
    fit: Scaling = "cover"
    resize: Fit | None = None

    def preparation(self, height: int, width: int) -> Preparation | None:
        """How image files become images of this size; None if no configuration says it."""
        if self.interpolation is None:
            return None
        scaled = (math.floor(side / (self.crop or 1)) for side in (height, width))
        return Preparation(fit=self.fit, height=next(scaled), width=next(scaled), interpolation=self.interpolation)


class Graph(Document):
    """A network's graph. ``source`` says where it was imported from.

    ``computed`` are the weights that were computed in advance; ``buffers`` are those that are made of none of the
    module's parameters, such as running statistics and tables; ``num_parameters`` counts the module's own parameters,
    of which the others are made. The latter two are None in files from before they were recorded.
    """

    format_name: ClassVar[str] = "sepnas.graph"
    current_version: ClassVar[int] = 1

    name: Text
    source: Text
    traits: NetworkTraits = NetworkTraits()
    inputs: Annotated[tuple[TensorName, ...], Field(min_length=1, max_length=MAX_GRAPH_PORTS)]
    outputs: Annotated[tuple[GraphOutput, ...], Field(min_length=1, max_length=MAX_GRAPH_PORTS)]
    nodes: Annotated[tuple[GraphNode, ...], Field(max_length=MAX_NODES)]
    weights: Annotated[tuple[TensorName, ...], Field(max_length=MAX_NODES)]
    tensors: Annotated[dict[TensorName, GraphTensor], Field(max_length=MAX_NODES)]
    computed: Annotated[tuple[TensorName, ...], Field(max_length=MAX_NODES)] = ()
    buffers: Annotated[tuple[TensorName, ...], Field(max_length=MAX_NODES)] | None = None
    num_parameters: Index | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        check_order(self)
        check_shapes(self)
        for field in ("computed", "buffers"):
            if strange := sorted(set(getattr(self, field) or ()) - set(self.weights)):
                raise ValueError(f"`{field}` holds '{strange[0]}', which is no weight")
        return self

    @property
    def image_input(self) -> str | None:
        """The input that is an image, if it is the only input and there is a mean and a deviation for each channel."""
        tensor, traits = self.tensors[self.inputs[0]], self.traits
        known = tensor.axes == "NCHW" and len(traits.mean) == len(traits.std) == tensor.dims[1]
        return self.inputs[0] if known and len(self.inputs) == 1 else None

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, without what was derived from the fields before they were changed."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    def use(self, node: GraphNode) -> OperatorUse:
        """A node's attributes and the sizes of its operands, as its kind takes them."""
        return OperatorUse(node.attributes, {role: self.tensors[name].dims for role, name in node.inputs.items()})

    @cached_property
    def _derived(self) -> dict[str, DerivedUse | None]:
        """What is derived from each node's use, by name; equal uses are one object. None for opaque operators."""
        found: dict[str, DerivedUse | None] = {}
        known: dict[object, DerivedUse] = {}
        for node in self.nodes:
            found[node.name] = None
            if node.kind is not None:
                use = self.use(node)
                key = node.operator, repr(use)
                found[node.name] = known.setdefault(key, DerivedUse(node.kind, use))
        return found

    def derived(self, node: GraphNode) -> DerivedUse | None:
        """What is derived from a node's use; None if it is opaque."""
        return self._derived[node.name]

    @cached_property
    def makers(self) -> Mapping[str, GraphNode]:
        """The node that makes each tensor, by the tensor's name."""
        return {name: node for node in self.nodes for name in node.outputs}

    @cached_property
    def stored(self) -> frozenset[str]:
        """The names of the weights, for quick look-ups."""
        return frozenset(self.weights)

    def weights_of(self, node: GraphNode) -> Mapping[str, str]:
        """The weights among a node's operands: the name of each by role."""
        return {role: name for role, name in node.inputs.items() if name in self.stored}

    def cuts_of(self, node: GraphNode) -> Mapping[int, int]:
        """The axes of a node's output that may be cut, each with the multiple that a cut keeps to; none if opaque."""
        derived = self.derived(node)
        return derived.cuts if derived else {}

    def macs_of(self, node: GraphNode) -> int:
        """The multiply-accumulates of a node; 0 if it is opaque."""
        derived = self.derived(node)
        return derived.macs if derived else 0

    @property
    def macs(self) -> int:
        return sum(map(self.macs_of, self.nodes))

    @property
    def num_weights(self) -> int:
        """The numbers stored as weights, constants included."""
        return sum(math.prod(self.tensors[name].dims) for name in self.weights)

    @property
    def opaque_nodes(self) -> tuple[GraphNode, ...]:
        """The nodes whose operator has no registered kind: they are kept whole."""
        return tuple(node for node in self.nodes if node.kind is None)


def graph_file(path: Path) -> Path:
    """The graph of a folder that `sepnas import` wrote, or the file itself."""
    return path / GRAPH_NAME if path.is_dir() else path


def is_graph(given: str) -> bool:
    """Whether a path is a graph's file, or a folder that has one."""
    try:
        path = graph_file(Path(given))
        return (path.name == GRAPH_NAME and path.is_file()) or format_of(path) == "graph"
    except (OSError, ValueError):  # not a valid file name
        return False


def load_graph(path: Path) -> Graph:
    """Read a graph, given its file or its folder; :class:`SpecError` names the node or the field that is wrong."""
    file = graph_file(path)
    if not is_there(file):
        has = f"has no {GRAPH_NAME}" if path.is_dir() else "no such file or folder"
        raise SpecError(
            f"{path}: {has}; expected an imported network, which `sepnas import NETWORK --out {path}` writes"
        )
    return Graph.load(file)
