"""Times of operators within layers, for an engine that fuses operators.

onnxruntime converts tensors to a blocked channel layout at the start of a segment and back at its end, computes in
that layout, and fuses the residual's addition into a convolution. An operator alone in a segment takes two to four
times as long as within one. So realistic segments are measured, single layers and chains of them, and their times are
distributed over their operators.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import nn

from sepnas.measure.fits import fit_costs
from sepnas.measure.operators import OperatorTimes, operator_time
from sepnas.measure.probes import form_of, input_shape
from sepnas.measure.rounds import Stop, Tick, measure_rounds, timed_once, until_half
from sepnas.measure.running import running
from sepnas.nets.blocks import make_module
from sepnas.plan.operators import Operator
from sepnas.plan.shapes import Shape
from sepnas.separable.forms import Form, LayerForm
from sepnas.separable.layer import Layer, LayerWork

_Numbers = npt.NDArray[np.float64]

_TRUST_IN_KIND = 0.2
"""Weight that holds an operator to the estimate from its kind and sizes, relative to one segment that contains it."""
_MIN_RATIO = 0.05
_MIN_S = 1e-8


class LayerChain(NamedTuple):
    """Consecutive layers of a network in one segment."""

    layers: tuple[LayerWork, ...]

    @property
    def operators(self) -> tuple[Operator, ...]:
        return tuple(each for layer in self.layers for each in layer.operators)

    @property
    def name(self) -> str:
        return "chain-" + hashlib.sha256(repr(self.layers).encode()).hexdigest()[:24]

    @property
    def form(self) -> str:
        forms = tuple((tuple(map(form_of, layer.operators)), _wiring(layer.form)) for layer in self.layers)
        return "form-" + hashlib.sha256(repr(forms).encode()).hexdigest()[:24]

    @property
    def input_shape(self) -> Shape:
        return input_shape(self.operators[0])

    @property
    def num_outputs(self) -> int:
        return 1

    @property
    def end_values(self) -> int:
        """Values that enter and leave the segment, for one sample."""
        return self.operators[0].input_values + self.operators[-1].output_values

    def module(self) -> nn.Module:
        return nn.Sequential(*(make_module(layer.form) for layer in self.layers))


def measure_in_layers(
    networks: Sequence[Sequence[Layer]],
    stop: Stop,
    engine: str,
    threads: int = 1,
    tick: Tick = lambda: None,
    least: int | None = None,
) -> OperatorTimes:
    """Time the chains of some networks (:func:`chains_of`), those of the first ``least`` [all] in any case; otherwise
    as ``measure_operators``.

    Of operators that occur together in every segment, only the sum is known: it is split by kind and size.
    """
    chains = chains_of(networks)
    least = len(chains if least is None else chains_of(networks[:least]))
    with running(chains, engine, threads, until_half(stop, least, tick)) as calls:
        tick()
        rounds = measure_rounds([timed_once(call) for call in calls], stop, tick)
    took_s, overhead_s, value_s = share_out(chains[: len(calls)], rounds.medians_s())
    rows = tuple(operator_time(each, seconds) for each, seconds in took_s.items())
    return OperatorTimes(rows, overhead_s, rounds, rounds.is_stable(stop), value_s)


def chains_of(networks: Sequence[Sequence[Layer]]) -> list[LayerChain]:
    """For each network, each layer alone and all layers between the first and the last; equal chains once."""
    found: list[LayerChain] = []
    for network in networks:
        found += (LayerChain((layer.work,)) for layer in network)
        if len(network) > 2:
            found.append(LayerChain(tuple(layer.work for layer in network[1:-1])))
    return list(dict.fromkeys(found))


def share_out(chains: Sequence[LayerChain], seconds: Sequence[float]) -> tuple[dict[Operator, float], float, float]:
    """Seconds of each operator, of a call, and of a value at the ends of a segment, fitted to the chains' times.

    Two steps of least squares of relative errors. First, the operators of a kind get a constant, a time per MAC and
    a time per value moved. Then each operator gets a factor on that time, regularised to stay near 1 unless the chains
    say otherwise.
    """
    operators = list(dict.fromkeys(each for chain in chains for each in chain.operators))
    places = {each: index for index, each in enumerate(operators)}
    counts_no = np.zeros((len(chains), len(operators)))
    for row, chain in zip(counts_no, chains, strict=True):
        for each in chain.operators:
            row[places[each]] += 1
    ends_n2 = np.array([(1.0, chain.end_values) for chain in chains])
    amounts_of = np.array([_amounts(each) for each in operators])
    by_kind = fit_costs(np.hstack([counts_no @ amounts_of, ends_n2]), seconds)
    expected_o = np.maximum(amounts_of @ by_kind[:-2], _MIN_S)
    columns = np.hstack([counts_no * expected_o, ends_n2])
    held = np.hstack([np.eye(len(operators)), np.zeros((len(operators), 2))])
    weights = np.repeat((1.0, _TRUST_IN_KIND), (len(chains), len(operators)))
    *ratios, overhead_s, value_s = fit_costs(np.vstack([columns, held]), [*seconds, *np.ones(len(operators))], weights)
    took_s = expected_o * np.maximum(ratios, _MIN_RATIO)
    return dict(zip(operators, took_s.tolist(), strict=True)), overhead_s, value_s


def _amounts(each: Operator) -> _Numbers:
    """One, MACs and values moved, in the columns of the operator's kind; group convolutions are a kind of their own."""
    kinds = ("pointwise", "convolution", "groups", "other")
    name = "other"
    if each.kind == "conv":
        name = "groups" if each.groups > 1 else "pointwise" if each.kernel == 1 else "convolution"
    found = np.zeros((len(kinds), 3))
    found[kinds.index(name)] = (1, each.macs, each.values_moved)
    return found.ravel()


def _wiring(form: Form) -> tuple[object, ...]:
    """Everything that the graph depends on besides operators and sizes."""
    activations = tuple(each.activation for each in form.every_convolution)
    return (activations, form.shortcut != "none", form.activation) if isinstance(form, LayerForm) else activations
