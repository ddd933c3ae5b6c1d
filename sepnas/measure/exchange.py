"""Measures the processor cost of exchanging on this machine, with the runtime's own codec, merges and channels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from sepnas.measure.fits import fit_costs
from sepnas.measure.loopback import Ends, Loopback
from sepnas.measure.machine import usable_cores
from sepnas.measure.rounds import Stop, Tick, after_pause, measure_rounds, timed, timed_once
from sepnas.plan.merges import merge
from sepnas.plan.shapes import Shape
from sepnas.plan.steps import Merge
from sepnas.plan.wire import CONVERTED, FRAME_HEADER_BYTES, IMAGE_FORMATS, AnyFormat
from sepnas.runtime.tensors.codec import Array, decode, decode_image, encode
from sepnas.spec.device_profile import ConversionCosts, ExchangeCosts

NUM_VALUES = (256, 2048, 16384, 65536)
"""Sizes of the family's feature maps: from 16 channels of 4x4 to 64 of 32x32."""
MESSAGE_BYTES = (64, 1024, 16384, 131072)
CALLS = 5
_MERGE = Merge("mean", ("own", "received"), "merged")

Compute = Callable[[], object]
"""Runs the engine for a few hundred microseconds."""


def measure_exchange(
    seconds: float, compute: Compute, threads: int = 1, tick: Tick = lambda: None
) -> tuple[ExchangeCosts, bool]:
    """The costs, measured for at most ``seconds``, and whether messages used TLS: without the package cryptography
    they are plain.

    A conversion is the mean of encoding and decoding. The merge is the ``mean`` of two tensors; ``weighted`` is slower.
    The cost of a message, half of it for each end, is the processor time of the process's threads; without a core for
    them, it is the time that a computing thread loses meanwhile. Merges, messages and ``compute`` run after a pause,
    as in a worker that has waited.
    """
    own_core = usable_cores() > threads
    convert_s, per_value = _conversions(_stop(seconds), tick)
    merge_s, merge_s_per_value = _merges(_stop(seconds), tick)
    resume_s = _resuming(compute, _stop(seconds), tick)
    message_s, byte_s, with_tls = _messages(_stop(seconds), tick, None if own_core else compute)
    costs = ExchangeCosts(
        message_s=message_s,
        byte_s=byte_s,
        convert_s=convert_s,
        convert_s_per_value=per_value,
        merge_s=merge_s,
        merge_s_per_value=merge_s_per_value,
        resume_s=resume_s,
        own_core=own_core,
    )
    return costs, with_tls


def _stop(seconds: float) -> Stop:
    """An equal share of the time for conversions, merges, resuming and messages."""
    return Stop(time.monotonic() + seconds / 4)


def _conversions(stop: Stop, tick: Tick) -> tuple[float, ConversionCosts]:
    runs: list[Callable[[], object]] = []
    columns = []
    for wire in CONVERTED:
        for number in NUM_VALUES:
            converting = _converting(wire, number)
            runs += converting
            columns += [[1.0, *(number * (each == wire) for each in CONVERTED)]] * len(converting)
    convert_s, *per_value = fit_costs(columns, _medians(runs, stop, tick))
    return convert_s, ConversionCosts(**dict(zip(CONVERTED, per_value, strict=True)))


def _converting(wire: AnyFormat, num_values: int) -> list[Callable[[], object]]:
    """Encoding and decoding in a format. Devices only decode images; the client encodes them."""
    if wire in IMAGE_FORMATS:
        image, gray = bytes(num_values), Shape.chw(1, num_values // 16, 16)
        normalisation = np.array([[0.5], [0.25]], np.float32)
        return [lambda: decode_image(image, gray, normalisation)]
    tensor = _tensor(num_values)
    payload, shape = encode(tensor, wire), Shape.chw(*tensor.shape[1:])
    return [lambda: encode(tensor, wire), lambda: decode(payload, wire, shape)]


def _merges(stop: Stop, tick: Tick) -> tuple[float, float]:
    runs = [_merging(_tensor(number)) for number in NUM_VALUES]
    rounds = measure_rounds([after_pause(timed_once(run)) for run in runs], stop, tick)
    merge_s, per_value = fit_costs([[1.0, 2.0 * number] for number in NUM_VALUES], rounds.medians_s())
    return merge_s, per_value


def _merging(tensor: Array) -> Callable[[], object]:
    shape = Shape.chw(*tensor.shape[1:])
    return lambda: merge(_MERGE, shape, [tensor, tensor])


def _resuming(compute: Compute, stop: Stop, tick: Tick) -> float:
    """Extra seconds of the same computation after a pause."""
    stop = replace(stop, least_rounds=100)  # the difference is a small part of either time
    at_once_s, resumed_s = measure_rounds([timed(compute, 1), after_pause(timed_once(compute))], stop, tick).medians_s()
    return max(0.0, resumed_s - at_once_s)


def _messages(stop: Stop, tick: Tick, compute: Compute | None) -> tuple[float, float, bool]:
    """Costs per message and per byte, and whether TLS was used; with ``compute``, messages share its core."""
    with Loopback() as loopback:
        visits = [_visit(loopback.ends, bytes(size), compute) for size in MESSAGE_BYTES]
        rounds = measure_rounds(visits, stop, tick)
        columns = [[1.0, float(size + FRAME_HEADER_BYTES)] for size in MESSAGE_BYTES]
        message_s, byte_s = fit_costs(columns, [max(each, 1e-9) / 2 for each in rounds.medians_s()])
        return message_s, byte_s, loopback.with_tls


def _visit(ends: Ends, payload: bytes, compute: Compute | None) -> Callable[[], Sequence[float]]:
    if compute is None:
        return lambda: [ends.processor_s(payload)]
    return lambda: [ends.lost_s(payload, compute)]


def _medians(runs: Sequence[Callable[[], object]], stop: Stop, tick: Tick) -> list[float]:
    return measure_rounds([timed(run, CALLS) for run in runs], stop, tick).medians_s()


def _tensor(num_values: int) -> Array:
    channels = num_values // 16
    return np.random.default_rng(0).standard_normal((1, channels, 4, 4), dtype=np.float32)
