"""One plan is priced, cut and run: the devices' numbers are the whole network's, the bytes the plan's."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sepnas.cost.memory import peak_memory_bytes
from sepnas.nets.separable import SeparableNetwork
from sepnas.plan.merges import merge, merge_weights_dims
from sepnas.plan.plan import Plan
from sepnas.plan.steps import CLIENT, Compute, Merge, Recv, Send
from sepnas.runtime.tensors.codec import decode, decode_image, encode, encode_image, normalise
from sepnas.runtime.worker.executor import _last_uses
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.lower import lower
from tests.strategies import architectures


def _seeded_network(architecture: Architecture, seed: int) -> SeparableNetwork:
    """A network in eval mode whose batch norm statistics are not the trivial ones."""
    torch.manual_seed(seed)
    network = SeparableNetwork(architecture)
    for name, value in network.named_buffers():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if name.endswith("var") else value.normal_(0, 0.1)
    for weight in network.merges.values():
        torch.nn.init.uniform_(weight, 0.1, 0.6)
    return network.eval()


def _scale(network: SeparableNetwork, name: str | None) -> np.float32 | None:
    return np.float32(network.scale(name)) if name else None


def _run_devices(
    plan: Plan, network: SeparableNetwork, images: np.ndarray, normalisation_2C: np.ndarray
) -> tuple[np.ndarray, int, int]:
    """Carry out every device's steps with the runtime's codec and merge.

    Returns the answer, the bytes between devices, and all bytes.
    """
    messages = {m.tag: m for m in plan.messages()}
    mail: dict[int, bytes] = {m.tag: encode_image(images) for m in messages.values() if m.source == CLIENT}
    counted, client = 0, sum(map(len, mail.values()))

    def device(rank: int) -> Iterator[None]:
        nonlocal counted, client
        tensors, weights = {}, network.merge_weights(rank)
        for step in plan.programs[rank]:
            if isinstance(step, Recv):
                while step.tag not in mail:
                    yield
                message = messages[step.tag]
                if message.source == CLIENT:
                    tensors[step.tensor] = decode_image(mail[step.tag], message.shape, normalisation_2C)
                    continue
                scale = _scale(network, message.scale)
                tensors[step.tensor] = decode(mail[step.tag], message.wire, message.shape, scale)
            elif isinstance(step, Compute):
                segment = network.segment(rank, plan.segments[rank][step.segment].layers)
                output = segment(torch.from_numpy(tensors[step.inputs[0]])).numpy()
                [made] = step.outputs
                tensors[made] = output.reshape(len(images), *plan.shapes[rank][made].dims)
            elif isinstance(step, Send):
                values = tensors[step.tensor][step.region.slices]
                payload = bytes(encode(values, step.wire, _scale(network, step.scale)))
                mail[step.tag] = payload
                counted += len(payload) if step.to != CLIENT else 0
                client += len(payload) if step.to == CLIENT else 0
            else:
                weight = weights[step.parameter].numpy() if step.parameter else None
                shape = plan.shapes[rank][step.output]
                tensors[step.output] = merge(step, shape, [tensors[name] for name in step.inputs], weight)

    running = [device(rank) for rank in range(plan.num_devices)]
    while running:
        running = [each for each in running if next(each, "done") != "done"]
    answer = next(m for m in plan.messages() if m.destination == CLIENT)
    return decode(mail[answer.tag], "fp32", answer.shape).reshape(len(images), -1), counted, client + counted


@settings(max_examples=30, deadline=None)
@given(architecture=architectures(), seed=st.integers(0, 1000), batch=st.integers(1, 3))
def test_devices_compute_what_the_whole_network_computes(architecture: Architecture, seed: int, batch: int) -> None:
    """Any architecture and policy: the sharded logits are the whole network's, quantised messages included."""
    network = _seeded_network(architecture, seed)
    size = architecture.image_size
    random, channels = np.random.default_rng(seed), architecture.in_channels
    images = random.integers(0, 256, (batch, channels, size, size), np.uint8)
    normalisation_2C = random.uniform(0.1, 1, (2, channels)).astype(np.float32)
    x = normalise(images, normalisation_2C)
    with torch.inference_mode():
        whole = network(torch.from_numpy(x)).numpy()
        for plan in (lower(architecture), build_plan(architecture)):
            answer, counted, total = _run_devices(plan, network, images, normalisation_2C)
            assert np.abs(answer - whole).max() <= 1e-5 * max(1.0, np.abs(whole).max())
            assert counted == plan.payload_bytes(batch)
            assert total == plan.total_bytes(batch)


def _bytes_in_use(plan: Plan, rank: int, batch: int) -> int:
    """The most that a device holds when all messages come as early as they can: tensors as the executor keeps them,
    payloads that wait to be taken, weights, and what a segment needs besides its inputs, whose peak has its output."""
    program, segments, shapes = plan.programs[rank], plan.segments[rank], plan.shapes[rank]
    waiting = {m.tag: m.payload_bytes(batch) for m in plan.messages() if m.destination == rank}
    weights = sum(segment.weight_bytes for segment in segments.values())
    for step in program:
        if isinstance(step, Merge) and step.kind == "convolve":
            weights += 4 * math.prod(merge_weights_dims(step, shapes))
    tensors: dict[str, int] = {}
    most = sum(waiting.values())
    for step, dropped in zip(program, _last_uses(program), strict=True):
        working = 0
        if isinstance(step, Recv):
            del waiting[step.tag]
        if isinstance(step, Compute):
            inputs = sum(4 * batch * shapes[name].num_values for name in step.inputs)
            working = batch * segments[step.segment].activation_bytes
            if len(segments[step.segment].layers) == 1:
                working -= inputs
        if not isinstance(step, Send):
            [name] = step.writes
            tensors[name] = 4 * batch * shapes[name].num_values
            working -= tensors[name] if isinstance(step, Compute) else 0
        most = max(most, sum(tensors.values()) + sum(waiting.values()) + working)
        for name in dropped:
            del tensors[name]
    return weights + most


@settings(max_examples=60, deadline=None)
@given(architecture=architectures(), batch=st.integers(1, 3))
def test_memory_is_bounded(architecture: Architecture, batch: int) -> None:
    """No device holds more than the predicted peak, and the prediction is at most an input and headers above it."""
    for plan in (lower(architecture), build_plan(architecture)):
        for rank in range(plan.num_devices):
            used, bound = _bytes_in_use(plan, rank, batch), peak_memory_bytes(plan, rank, batch)
            assert used <= bound
            quantised = sum(4 * s.num_values for name, s in plan.shapes[rank].items() if name.startswith("r"))
            largest = max((4 * s.num_values for s in plan.shapes[rank].values()), default=0)
            assert bound <= used + batch * (quantised + largest + 8 * len(plan.programs[rank]))
