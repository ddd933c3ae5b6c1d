"""The cost of one layer in closed form, from its description: shapes, MACs, weights, operators. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sepnas.plan.operators import Operator
from sepnas.plan.plan import WeightSlice
from sepnas.plan.shapes import Region, Shape
from sepnas.separable.forms import Axes, ConvForm, Form, HeadForm, LayerForm, PoolForm, side_after


class LayerWork(NamedTuple):
    """The computation of a layer, wherever it stands: its description, and its operators in execution order."""

    form: Form
    operators: tuple[Operator, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer for one sample. ``peak_values``: input, output and intermediate values while it runs.

    ``num_parameters`` counts trained numbers, ``num_weights`` all stored numbers (with BN statistics);
    ``num_kernels`` counts the kernels that an engine launches (convolutions and the classifier). ``weights`` are named
    as in the whole network.
    """

    name: str
    macs: int
    num_parameters: int
    num_weights: int
    output: Shape
    peak_values: int
    num_kernels: int
    work: LayerWork
    weights: tuple[WeightSlice, ...]

    @property
    def form(self) -> Form:
        return self.work.form

    @property
    def operators(self) -> tuple[Operator, ...]:
        return self.work.operators


def make_layer(name: str, place: str, form: LayerForm, given: Shape) -> Layer:
    """The stem or a block; ``place`` is its name in the whole network, ``given`` the shape of its input."""
    pooled = _pooling(form.pool, *given.dims[:2])
    side = pooled[0].height if pooled else given.dims[1]
    convolutions = _operators(form.convolutions, side)
    last = convolutions[-1]
    around = []
    if isinstance(form.shortcut, ConvForm):
        around = _operators((form.shortcut,), side)
    if form.shortcut != "none":
        around = [*around, Operator("add", last.out_channels, last.out_channels, height=last.height, width=last.width)]
    operators = (*pooled, *convolutions, *around, *_pooling(form.last_pool, last.out_channels, last.height))
    output = Shape.chw(form.outputs.size, operators[-1].height, operators[-1].width)
    # a single convolution's output is counted twice, before and after its activation
    between = [*pooled, *(convolutions if form.last_pool else convolutions[:-1] or convolutions)]
    peak = given.num_values + output.num_values + sum(each.output_values for each in between)
    return _layer(name, place, form, operators, output, peak)


def make_head(place: str, form: HeadForm, given: Shape) -> Layer:
    """Convolutions, global mean and classifier; arguments as of :func:`make_layer`."""
    side = given.dims[1]
    convolutions = _operators(form.convolutions, side)
    channels = form.classified.size
    mean = Operator("pool", channels, channels, kernel=side, stride=side)
    linear = Operator("linear", channels, form.num_classes)
    peak = given.num_values + sum(each.output_values for each in convolutions) + channels + form.num_classes
    output = Shape.vector(form.num_classes)
    return _layer("head", place, form, (*convolutions, mean, linear), output, peak)


def _operators(convolutions: Iterable[ConvForm], side: int) -> list[Operator]:
    """The operators of convolutions in a row, of which the first has an input of side x side."""
    found = []
    for each in convolutions:
        side = side_after(side, each.kernel, each.stride)
        sizes = (each.inputs.size, each.outputs.size, each.kernel, each.stride, each.groups)
        found.append(Operator("conv", *sizes, side, side))
    return found


def _pooling(pool: PoolForm | None, channels: int, side: int) -> list[Operator]:
    """The operator of a max-pool of ``side`` x ``side`` pixels, if there is one."""
    if pool is None:
        return []
    after = side_after(side, *pool)
    return [Operator("max-pool", channels, channels, *pool, 1, after, after)]


def _layer(name: str, place: str, form: Form, operators: tuple[Operator, ...], output: Shape, peak: int) -> Layer:
    weights = tuple([_weight(f"{place}.{key}", axes) for key, axes in form.weights()])
    num_weights = sum([weight.region.num_values for weight in weights])
    # the statistics of a batch norm, two for each channel, are not trained
    channels = sum([each.outputs.size for each in form.every_convolution])
    return Layer(
        name=name,
        macs=sum([each.macs for each in operators]),
        num_parameters=num_weights - 2 * channels,
        num_weights=num_weights,
        output=output,
        peak_values=peak,
        num_kernels=sum([each.num_weights > 0 for each in operators]),
        work=LayerWork(form, operators),
        weights=weights,
    )


def _weight(name: str, axes: Axes) -> WeightSlice:
    return WeightSlice(name, Region(tuple([(0, axis.size) for axis in axes])))
