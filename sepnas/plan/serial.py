"""Converts parts of plans to and from plain data."""

from __future__ import annotations

from collections.abc import Iterable

from sepnas.plan.data import (
    ComputeData,
    MergeData,
    MessageData,
    OperatorData,
    PieceData,
    PortData,
    RecvData,
    RegionData,
    SegmentData,
    SegmentNodeData,
    SendData,
    ShapeData,
    SliceData,
    StepData,
    WeightData,
)
from sepnas.plan.operators import Operator
from sepnas.plan.plan import Message, Piece, Port, Segment, WeightSlice
from sepnas.plan.segment_node import SegmentNode
from sepnas.plan.shapes import Region, Shape
from sepnas.plan.steps import Compute, Merge, Recv, Send, Slice, Step


def shape_to_data(shape: Shape) -> ShapeData:
    return ShapeData(axes=shape.axes, dims=shape.dims)


def shape_from_data(data: ShapeData) -> Shape:
    return Shape(data.dims, data.axes)


def step_to_data(step: Step) -> StepData:
    if isinstance(step, Compute):
        return ComputeData(segment=step.segment, inputs=step.inputs, outputs=step.outputs)
    if isinstance(step, Slice):
        return SliceData(tensor=step.tensor, region=step.region.ranges, output=step.output)
    if isinstance(step, Send):
        return SendData(
            tensor=step.tensor, region=step.region.ranges, wire=step.wire, to=step.to, tag=step.tag, scale=step.scale
        )  # fmt: skip
    if isinstance(step, Recv):
        return RecvData(tag=step.tag, source=step.source, tensor=step.tensor)
    return MergeData(
        kind=step.kind, inputs=step.inputs, output=step.output, parameter=step.parameter, axis=step.axis,
        offsets=step.offsets,
    )  # fmt: skip


def step_from_data(data: StepData) -> Step:
    if isinstance(data, ComputeData):
        return Compute(data.segment, data.inputs, data.outputs)
    if isinstance(data, SliceData):
        return Slice(data.tensor, Region(data.region), data.output)
    if isinstance(data, SendData):
        return Send(data.tensor, Region(data.region), data.wire, data.to, data.tag, data.scale)
    if isinstance(data, RecvData):
        return Recv(data.tag, data.source, data.tensor)
    return Merge(data.kind, data.inputs, data.output, data.parameter, data.axis, data.offsets)


def program_to_data(program: Iterable[Step]) -> tuple[StepData, ...]:
    return tuple(step_to_data(step) for step in program)


def message_to_data(message: Message) -> MessageData:
    return MessageData(
        tag=message.tag,
        source=message.source,
        destination=message.destination,
        tensor=message.tensor,
        shape=shape_to_data(message.shape),
        wire=message.wire,
        scale=message.scale,
        normalisation=message.normalisation,
    )


def message_from_data(data: MessageData) -> Message:
    shape = shape_from_data(data.shape)
    return Message(
        data.tag, data.source, data.destination, data.tensor, shape, data.wire, data.scale, data.normalisation
    )


def port_to_data(port: Port) -> PortData:
    return PortData(
        name=port.name,
        shape=shape_to_data(port.shape),
        pieces=tuple(map(_piece_to_data, port.pieces)),
        fallbacks=tuple(map(_piece_to_data, port.fallbacks)),
    )


def port_from_data(data: PortData) -> Port:
    pieces, fallbacks = (tuple(map(_piece_from_data, each)) for each in (data.pieces, data.fallbacks))
    return Port(data.name, shape_from_data(data.shape), pieces, fallbacks)


def _piece_to_data(piece: Piece) -> PieceData:
    return PieceData(region=piece.region.ranges, device=piece.device, tag=piece.tag, wire=piece.wire)


def _piece_from_data(data: PieceData) -> Piece:
    return Piece(Region(data.region), data.device, data.tag, data.wire)


def segment_to_data(segment: Segment) -> SegmentData:
    return SegmentData(
        layers=segment.layers,
        inputs=segment.inputs,
        outputs=segment.outputs,
        flops=segment.flops,
        num_kernels=segment.num_kernels,
        weight_bytes=segment.weight_bytes,
        activation_bytes=segment.activation_bytes,
        operators=tuple(map(_operator_to_data, segment.operators)),
        weights=tuple(WeightData(name=each.name, region=each.region.ranges) for each in segment.weights),
        nodes=tuple(map(_node_to_data, segment.nodes)),
    )


def segment_from_data(name: str, rank: int, data: SegmentData) -> Segment:
    return Segment(
        name=name,
        device=rank,
        layers=data.layers,
        flops=data.flops,
        num_kernels=data.num_kernels,
        weight_bytes=data.weight_bytes,
        activation_bytes=data.activation_bytes,
        operators=tuple(Operator(**dict(each)) for each in data.operators),
        weights=tuple(WeightSlice(each.name, Region(each.region)) for each in data.weights),
        inputs=data.inputs,
        outputs=data.outputs,
        nodes=tuple(map(_node_from_data, data.nodes)),
    )


def _node_to_data(node: SegmentNode) -> SegmentNodeData:
    return SegmentNodeData(
        layer=node.layer, operator=node.operator, inputs=dict(node.inputs), outputs=node.outputs, shapes=node.shapes,
        attributes=dict(node.attributes), region=_ranges(node.region), terms=_ranges(node.terms),
    )  # fmt: skip


def _node_from_data(data: SegmentNodeData) -> SegmentNode:
    region, terms = (None if ranges is None else Region(ranges) for ranges in (data.region, data.terms))
    return SegmentNode(
        data.layer, data.operator, data.inputs, data.outputs, data.shapes, data.attributes, region, terms
    )


def _ranges(region: Region | None) -> RegionData | None:
    return None if region is None else region.ranges


def _operator_to_data(each: Operator) -> OperatorData:
    return OperatorData(
        kind=each.kind, in_channels=each.in_channels, out_channels=each.out_channels, kernel=each.kernel,
        stride=each.stride, groups=each.groups, height=each.height, width=each.width,
    )  # fmt: skip
