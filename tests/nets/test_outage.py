"""Networks without some of their devices and messages: what they compute is what degraded devices answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from typing import TypeAlias

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sepnas.errors import PlanError
from sepnas.nets.outage import Outage
from sepnas.nets.separable import SeparableNetwork
from sepnas.plan.shapes import Shape
from sepnas.plan.steps import CLIENT
from sepnas.runtime.protocol.events import Data
from sepnas.runtime.tensors.codec import decode
from sepnas.runtime.worker.executor import Executor, RunningRequest
from sepnas.runtime.worker.mailbox import Mailbox
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.policy import Readout, TransmissionPolicy
from sepnas.separable.transfers import transfer_tag
from sepnas.train.dropout import draw_outage
from tests.helpers_runtime import EagerEngine, lively_network, plan_in_memory, tiny_architecture, transfer
from tests.strategies import architectures

POINTS = [
    {"after": 0, "merge": "weighted", "transfers": [transfer(0, 1, "int8", 1, 0.5), transfer(1, 0), transfer(2, 0)]},
    {"after": 1, "transfers": [transfer(2, 1), transfer(1, 2, "fp16")]},
    {"after": 3, "transfers": [transfer(2, 0, "int8"), transfer(0, 2)]},
    {
        "after": 4,
        "merge": "concat",
        "transfers": [transfer(2, 0, "int8", 1), transfer(1, 0, fraction=0.5), transfer(0, 2)],
    },
]


Message: TypeAlias = tuple[int, int, int]
"""``(block, source, destination)``, sent after ``block``; logits sent to the reader have block -1."""
LOGITS = -1


def messages_of(architecture: Architecture) -> list[Message]:
    policy = architecture.policy
    found = [(point.after, t.source, t.destination) for point in policy.points for t in point.transfers]
    reader = policy.readout.device
    logits = [(LOGITS, rank, reader) for rank in range(architecture.num_devices) if rank != reader]
    return found + (logits if policy.readout.kind == "mean" else [])


def tag_of(architecture: Architecture, message: Message) -> int:
    """The tag of a message in every plan of the architecture."""
    block, source, destination = message
    if block == LOGITS:
        [tag] = [piece.tag for piece in build_plan(architecture).outputs[0].fallbacks if piece.device == source]
        return tag
    [point] = [point for point in architecture.policy.points if point.after == block]
    [sent] = [each for each in point.transfers if (each.source, each.destination) == (source, destination)]
    return transfer_tag(block, sent, architecture.num_devices)


def one_rule(architecture: Architecture) -> Architecture:
    """All merges by the first one's rule: where two rules meet, a policy cannot say what is left when one is lost."""
    policy = architecture.policy
    points = [point.model_copy(update={"merge": policy.points[0].merge}) for point in policy.points]
    return architecture.model_copy(update={"policy": policy.model_copy(update={"points": tuple(points)})})


def logits_without(
    network: SeparableNetwork, x_bchw: Tensor, lost: Collection[int], messages: Collection[Message]
) -> Tensor:
    """By the network whose policy never heard of them: the mean of the logits that are left."""
    policy, ranks = network.policy.without(lost), range(network.architecture.num_devices)
    points = [
        point.model_copy(
            update={
                "transfers": tuple(t for t in point.transfers if (point.after, t.source, t.destination) not in messages)
            }
        )
        for point in policy.points
    ]
    reader = policy.readout.device
    readers = [reader] if policy.readout.kind == "device" else [rank for rank in ranks if rank not in lost]
    if reader in readers:
        readers = [rank for rank in readers if (LOGITS, rank, reader) not in messages]
    found = [
        network(x_bchw, TransmissionPolicy(points=tuple(points), readout=Readout(device=rank))) for rank in readers
    ]
    return torch.stack(found).mean(0)


@st.composite
def outages(draw: st.DrawFn, architecture: Architecture, batch: int) -> list[tuple[set[int], set[Message]]]:
    """Of each sample devices and messages that are lost, so that somebody answers."""
    policy, ranks = architecture.policy, set(range(architecture.num_devices))
    found = []
    for _ in range(batch):
        left = draw(st.sets(st.sampled_from(sorted(ranks)), min_size=1))
        if policy.readout.kind == "device":
            left.add(policy.readout.device)
        names = messages_of(architecture)
        found.append((ranks - left, draw(st.sets(st.sampled_from(names), max_size=4)) if names else set()))
    return found


def outage_of(architecture: Architecture, samples: list[tuple[set[int], set[Message]]]) -> Outage:
    devices = [[rank in lost for lost, _ in samples] for rank in range(architecture.num_devices)]
    names = {name for _, messages in samples for name in messages}
    masks = {name: torch.tensor([name in messages for _, messages in samples]) for name in sorted(names)}
    return Outage(torch.tensor(devices), {tag_of(architecture, name): mask for name, mask in masks.items()})


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_each_sample_is_answered_as_by_the_network_without_what_it_lost(data: st.DataObject) -> None:
    """Any architecture, any devices and messages: sample by sample what the policy without them answers."""
    architecture = one_rule(data.draw(architectures()))
    network = lively_network(architecture).double()  # no value is so close to the middle of two int4 levels
    samples = data.draw(outages(architecture, 3))
    size = architecture.image_size
    shape = (3, architecture.in_channels, size, size)
    x_bchw = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    all_heads = SeparableNetwork(architecture, all_heads=True).double().eval()
    all_heads.load_state_dict(network.state_dict(), strict=False)
    with torch.inference_mode():
        found = network(x_bchw, outage=outage_of(architecture, samples))
        expected = [logits_without(all_heads, x_bchw[[i]], *sample) for i, sample in enumerate(samples)]
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-5, atol=1e-5)


def logits_of_devices(network: SeparableNetwork, x_bchw: Tensor, lost: set[int]) -> Tensor:
    """What the executors of the devices that are left make of it, each in a thread; who answers for a lost reader."""
    plan, boxes = build_plan(network.architecture), {rank: Mailbox() for rank in range(-1, 3)}
    batch, until = len(x_bchw), time.monotonic() + 60
    runs = {
        rank: RunningRequest(1, batch, until, tolerant=True, without=frozenset(lost), normalised=True)
        for rank, program in enumerate(plan.programs)
        if program and rank not in lost
    }

    def post(rank, data):
        boxes[rank].put(data.request, data.tag, data.payload)

    def work(rank):
        Executor(plan_in_memory(network, rank), EagerEngine(network, rank), boxes[rank], post).run(runs[rank])

    for message in plan.messages():
        if message.source == CLIENT:
            post(message.destination, Data(1, message.tag, bytearray(x_bchw.numpy().tobytes())))
    threads = [threading.Thread(target=work, args=(rank,)) for rank in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if plan.answering[0] in lost:
        own = [payload for run in runs.values() for payload in run.own.values()]
    else:
        tag = next(message.tag for message in plan.messages() if message.destination == CLIENT)
        own = [boxes[CLIENT].take(1, tag, deadline=0).payload]
    shape = Shape.vector(network.architecture.num_classes)
    decoded = [torch.from_numpy(decode(payload, "fp32", shape)).flatten(1) for payload in own]
    return torch.stack(decoded).mean(0)


@pytest.mark.parametrize(
    ("readout", "lost"),
    [("mean", lost) for lost in (set(), {0}, {1}, {2}, {0, 1}, {1, 2})] + [("device", lost) for lost in ({1}, {1, 2})],
)
def test_it_is_what_devices_that_degrade_compute(readout: str, lost: set[int]) -> None:
    """The same numbers as the devices' executors, which merge what came; also where two merge rules meet."""
    network = lively_network(tiny_architecture(POINTS, readout))
    x_bchw = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = network(x_bchw, outage=Outage.of(lost, 3, 2))
    torch.testing.assert_close(found, logits_of_devices(network, x_bchw, lost), rtol=1e-5, atol=1e-5)


def test_nobody_left_to_answer_is_an_error() -> None:
    """All devices lost in one sample, or the only one that answers: the message says which."""
    x_bchw = torch.zeros(2, 1, 8, 8)
    mean, single = (lively_network(tiny_architecture(POINTS, readout)) for readout in ("mean", "device"))
    with pytest.raises(PlanError, match="all 3 devices are lost"):
        mean(x_bchw, outage=Outage(torch.tensor([[False, True]] * 3)))
    with pytest.raises(PlanError, match="device 0 alone answers with 'logits'"):
        single(x_bchw, outage=Outage.of({0}, 3, 2))


def test_batch_norms_see_only_the_samples_of_a_living_device() -> None:
    """A device's statistics are those of its own samples; lost in all of them it keeps its own, and learns nothing."""
    x_bchw = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    devices_nb = torch.tensor([[False] * 6, [True, False, True, False, False, True], [True] * 6])
    network, alone = (lively_network(tiny_architecture([], "mean")).train() for _ in range(2))
    network.stem.eval(), alone.stem.eval()
    network(x_bchw, outage=Outage(devices_nb)).sum().backward()
    alone(x_bchw[~devices_nb[1]])
    before = lively_network(tiny_architecture([], "mean")).state_dict()
    found, wanted = network.state_dict(), alone.state_dict()
    for name in (name for name in found if "running" in name):
        if name.startswith("parts.1."):
            torch.testing.assert_close(found[name], wanted[name])
        if name.startswith("parts.2."):
            assert torch.equal(found[name], before[name])
    assert all(weight.grad is None for weight in network.parts[2].parameters())
    assert all(weight.grad is not None for weight in network.parts[1].parameters())


@pytest.mark.parametrize("readout", ["mean", "device"])
def test_outages_are_drawn_in_their_shares(readout: str) -> None:
    """Devices and messages are lost as often as was asked, never all devices, never the only one that answers."""
    architecture = tiny_architecture(POINTS, readout)
    plan = build_plan(architecture)
    outage = draw_outage(plan, 4000, seeded(0), 0.3, 0.2)
    assert set(outage.messages) == {message.tag for message in plan.transfers()}
    outage.check(plan)
    shares = outage.devices.float().mean(1)
    # a third of the samples that would have lost all three have each device back
    expected = [0.0, 0.3, 0.3] if readout == "device" else [0.3 - 0.3**3 / 3] * 3
    torch.testing.assert_close(shares, torch.tensor(expected), rtol=0, atol=0.03)
    for lost in outage.messages.values():
        assert abs(float(lost.float().mean()) - 0.2) < 0.03
    again = draw_outage(plan, 4000, seeded(0), 0.3, 0.2)
    assert torch.equal(outage.devices, again.devices)


def test_without_dropout_nothing_is_drawn() -> None:
    """Shares of 0 leave the generator where it was, so that trainings without dropout are what they were."""
    generator = seeded(0)
    assert draw_outage(build_plan(tiny_architecture(POINTS)), 8, generator, 0.0, 0.0) is None
    assert torch.equal(generator.get_state(), seeded(0).get_state())


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
