"""The supernet: shared weights, statistics of one's own, and a training step that repeats itself."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from sepnas.nets.separable import SeparableResNeXt
from sepnas.nets.supernet import Supernet, recalibrate_batch_norm
from sepnas.spec.policy import TransmissionPolicy
from sepnas.spec.space import SearchSpace
from sepnas.train.supernet import SandwichStep, random_policy
from tests.test_space import SPACE

IMAGES_BCHW = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS_B = torch.arange(24) % 10


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks gain nothing from threads, and lose much where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def supernet() -> Supernet:
    torch.manual_seed(0)
    return Supernet(SPACE)


def some_policies(count: int) -> list[TransmissionPolicy]:
    draw = random.Random(0).randrange
    return [SPACE.policy_of(SPACE.sample(draw)) for _ in range(count)]


def statistics(network: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in network.named_buffers()}


def test_the_supernet_holds_every_policy(supernet: Supernet) -> None:
    """Each policy of the space runs over the supernet's weights as it would over a network of its own."""
    supernet.eval()
    for policy in some_policies(6):
        own = SeparableResNeXt(supernet.architecture.with_policy(policy)).eval()
        kept = {name: value for name, value in supernet.state_dict().items() if name in own.state_dict()}
        own.load_state_dict(kept)
        torch.testing.assert_close(supernet(IMAGES_BCHW, policy), own(IMAGES_BCHW), rtol=0, atol=0)


def test_a_space_without_weighted_merges_needs_no_merge_weights() -> None:
    """Only a space that offers weighted merges has weights for them."""
    data = SPACE.to_data()
    data["policy"]["merges"] = ["mean"]
    assert not Supernet(SearchSpace.from_data(data)).merges


def test_recalibration_gives_a_policy_its_own_statistics(supernet: Supernet) -> None:
    """Within the block the statistics are the plain mean over the batches of that policy."""
    policy = some_policies(1)[0]
    with recalibrate_batch_norm(supernet, policy, IMAGES_BCHW, batches=2):
        assert not supernet.training
        found = supernet.stem.layer.bn.running_mean.clone()
    with torch.no_grad():
        halves = [supernet.stem.layer.conv(half).mean((0, 2, 3)) for half in IMAGES_BCHW.chunk(2)]
    torch.testing.assert_close(found, sum(halves) / 2)


@pytest.mark.parametrize("failing", [False, True])
def test_recalibration_leaves_no_trace(supernet: Supernet, failing: bool) -> None:
    """Afterwards shared statistics, momentum and mode are what they were, whatever happened within."""
    before = statistics(supernet)
    try:
        with recalibrate_batch_norm(supernet, some_policies(1)[0], IMAGES_BCHW):
            assert any(not torch.equal(before[name], value) for name, value in statistics(supernet).items())
            if failing:
                raise RuntimeError
    except RuntimeError:
        pass
    torch.testing.assert_close(statistics(supernet), before, rtol=0, atol=0)
    assert supernet.training
    assert all(m.momentum == 0.1 for m in supernet.modules() if isinstance(m, nn.BatchNorm2d))


def test_random_policies_come_from_the_generator_alone() -> None:
    """The same generator state draws the same policies, and they differ among themselves."""
    drawn = [[random_policy(SPACE, generator) for _ in range(4)] for generator in (seeded(3), seeded(3))]
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]


def test_a_step_trains_the_ends_and_what_lies_between(supernet: Supernet) -> None:
    """One step's loss reaches the weights of every device and of every head."""
    step = SandwichStep(SPACE, num_random=2)
    loss = step(supernet, IMAGES_BCHW, LABELS_B, seeded(0))
    loss.backward()
    assert loss.dim() == 0
    assert all(weight.grad is not None for part in supernet.parts for weight in part.parameters())
    assert all(head.classifier.weight.grad is not None for head in supernet.heads.values())


def test_the_students_do_not_teach_the_largest(supernet: Supernet) -> None:
    """Distillation flows one way: the target is a constant to the students' losses."""
    step = SandwichStep(SPACE, num_random=0)
    whole = step(supernet, IMAGES_BCHW, LABELS_B, seeded(0))
    weight = supernet.parts[1][0].reduce.conv.weight  # device 1 has no say in the smallest policy
    (gradient,) = torch.autograd.grad(whole, weight)
    own = nn.functional.cross_entropy(supernet(IMAGES_BCHW, step.largest), LABELS_B)
    (expected,) = torch.autograd.grad(own, weight)
    torch.testing.assert_close(gradient, expected)


def test_training_the_supernet_lowers_the_loss_of_each_policy(supernet: Supernet) -> None:
    """A few steps on a handful of images make the largest, the smallest and unseen policies better."""
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.05, momentum=0.9)
    step, generator = SandwichStep(SPACE), seeded(1)
    policies = [step.largest, step.smallest, *some_policies(3)]
    before = losses(supernet, policies)
    for _ in range(40):
        optimizer.zero_grad()
        step(supernet, IMAGES_BCHW, LABELS_B, generator).backward()
        optimizer.step()
    assert all(after < 0.9 * first for after, first in zip(losses(supernet, policies), before, strict=True))


def losses(supernet: Supernet, policies: list[TransmissionPolicy]) -> list[float]:
    with torch.no_grad():
        return [float(nn.functional.cross_entropy(supernet(IMAGES_BCHW, policy), LABELS_B)) for policy in policies]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
