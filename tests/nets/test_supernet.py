"""The supernet: shared weights, statistics of one's own, and a training step that repeats itself."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import nn

from sepnas.nets.exchange import through_wire
from sepnas.nets.separable import planned
from sepnas.nets.supernet import Supernet, recalibrate_batch_norm
from sepnas.plan.wire import WireFormat
from sepnas.separable.architecture import Architecture
from sepnas.separable.layers import count_parameters
from sepnas.separable.space import SearchSpace
from sepnas.train.data import load_dataset
from sepnas.train.dropout import draw_outage
from sepnas.train.loop import train_network
from sepnas.train.recipe import RECIPES
from sepnas.train.supernet import SandwichStep, random_architecture
from tests.separable.test_space import SPACE, WIDE, genotypes

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
GENOTYPES = genotypes(WIDE)
EXACT_SUPERNET = Supernet(WIDE).double()
"""In double precision no value comes so close to the middle of two int4 levels that it is rounded to either."""
for matrix in EXACT_SUPERNET.merges.values():
    if matrix.dim():
        nn.init.normal_(matrix, 0.1, 0.1)
IMAGES_BCHW = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS_B = torch.arange(24) % 10


@pytest.fixture
def supernet() -> Supernet:
    torch.manual_seed(0)
    return Supernet(SPACE)


def some_architectures(count: int, space: SearchSpace = SPACE) -> list[Architecture]:
    draw = random.Random(0).randrange
    return [space.architecture_of(space.sample(draw)) for _ in range(count)]


@settings(deadline=None, max_examples=40)
@given(GENOTYPES)
def test_a_network_of_the_supernet_computes_what_it_computes_there(genotype: dict[str, Any]) -> None:
    """Any network of the space, taken out, gives the supernet's answers: every depth, width, cardinality and merge."""
    architecture = WIDE.architecture_of(genotype)
    own = EXACT_SUPERNET.extract(architecture).double()
    assert count_parameters(architecture) == sum(weight.numel() for weight in own.parameters())
    with torch.no_grad():
        found, expected = EXACT_SUPERNET(IMAGES_BCHW.double(), architecture), own.train()(IMAGES_BCHW.double())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(GENOTYPES)
def test_a_networks_gradient_is_that_of_its_slices(genotype: dict[str, Any]) -> None:
    """What a network of the space teaches the shared weights is what it would learn itself, and nothing else."""
    architecture = WIDE.architecture_of(genotype)
    own, images_bchw = EXACT_SUPERNET.extract(architecture).double().train(), IMAGES_BCHW.double()
    EXACT_SUPERNET.zero_grad()
    for logits_bk in (own(images_bchw), EXACT_SUPERNET(images_bchw, architecture)):
        nn.functional.cross_entropy(logits_bk, LABELS_B).backward()
    shared, alone = (
        sum(w.grad.square().sum() for w in n.parameters() if w.grad is not None) for n in (EXACT_SUPERNET, own)
    )
    torch.testing.assert_close(shared, alone, rtol=1e-3, atol=1e-6)


def test_the_supernet_keeps_no_statistics(supernet: Supernet) -> None:
    """A supernet answers by the statistics of the batch, trained or evaluated: there are none to grow stale."""
    assert not list(supernet.buffers())
    torch.testing.assert_close(supernet.eval()(IMAGES_BCHW), supernet.train()(IMAGES_BCHW), rtol=0, atol=0)


def test_taking_a_network_out_draws_nothing(supernet: Supernet) -> None:
    """The random generator is where it was, so that evaluation does not change what is drawn after it."""
    before = torch.get_rng_state()
    supernet.extract(some_architectures(1)[0])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("wire", ["fp16", "int8", "int4"])
def test_gradients_pass_through_every_wire_format(wire: WireFormat) -> None:
    """A quantised message carries the gradient back to its sender unchanged."""
    x, factor = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 4)
    (through_wire(x, wire) * factor).sum().backward()
    torch.testing.assert_close(x.grad, factor)


def test_a_space_without_learned_merges_needs_no_merge_weights() -> None:
    """Only a space that offers learned merges has weights for them."""
    data = SPACE.to_data()
    data["policy"]["merges"] = ["mean"]
    assert not Supernet(SearchSpace.from_data(data)).merges


def test_matrices_of_merges_are_cut_as_the_layers_are() -> None:
    """A narrower network's matrix has the rows and columns of its own channels, also where these are in groups."""
    data = SPACE.to_data() | {"name": "grouped"}
    numbers = {"backbone": "vgg", "depth": [11], "image_size": 32, "num_devices": 2, "cardinality": 4}
    data["network"] = data["network"] | numbers | {"bottleneck_width": [1, 2], "uneven": True}
    data["network"].pop("output_channels", None)
    data["policy"] |= {"patterns": ["all-to-all"], "merges": ["concat"], "readouts": ["mean"], "exchange_points": "all"}
    space = SearchSpace.from_data(data)
    supernet = Supernet(space)
    with torch.no_grad():
        for part in supernet.parts:
            for block in part:
                block.layer.bn.weight.copy_(torch.arange(len(block.layer.bn.weight)))
        for name, matrix in supernet.merges.items():
            matrix.copy_(100.0 * torch.arange(len(matrix))[:, None] + torch.arange(matrix.shape[1]))
            assert name.endswith("_matrix")
    draw = random.Random(0).randrange
    for _ in range(12):
        own = supernet.extract(space.architecture_of(space.sample(draw)))
        for name, matrix in own.merges.items():
            after, source, destination = map(int, re.findall(r"\d+", name))
            rows, columns = (own.parts[rank][after].layer.bn.weight for rank in (destination, source))
            expected = 100 * rows[:, None] + columns[: matrix.shape[1]]
            torch.testing.assert_close(matrix, expected, rtol=0, atol=0)


def test_recalibration_gives_a_policy_its_own_statistics(supernet: Supernet) -> None:
    """Statistics are the plain mean over the batches, whatever they were before."""
    architecture = some_architectures(1)[0]
    own = supernet.extract(architecture)
    for _ in range(2):
        recalibrate_batch_norm(own, architecture.policy, IMAGES_BCHW, batches=2)
        assert not own.training
        with torch.no_grad():
            halves = [own.stem.layer.conv(half).mean((0, 2, 3)) for half in IMAGES_BCHW.chunk(2)]
        torch.testing.assert_close(own.stem.layer.bn.running_mean, sum(halves) / 2)


def test_random_architectures_come_from_the_generator_alone() -> None:
    """The same generator state draws the same architectures, and they differ among themselves."""
    drawn = [[random_architecture(WIDE, generator) for _ in range(4)] for generator in (seeded(3), seeded(3))]
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_that_was_cut_ends_with_the_same_weights(tmp_path: Path, precision: str, device: str) -> None:
    """A supernet's training, resumed after one epoch of two, gives bit for bit the weights of an unbroken one."""
    data = load_dataset("digits")
    data = replace(data, train=data.train.take(torch.arange(64)), val=data.val.take(torch.arange(32)))
    recipe = RECIPES["digits"].model_copy(update={"epochs": 2, "precision": precision})
    ended = []
    for folder, pieces in (("whole", [None]), ("cut", [0.0, None])):
        for stop_after_s in pieces:
            torch.manual_seed(0)
            network = Supernet(WIDE)
            train_network(
                network, data, recipe, tmp_path / folder, resume=True, device=device, progress=False,
                stop_after_s=stop_after_s, step=SandwichStep(WIDE),
            )  # fmt: skip
        ended.append(network.state_dict())
    torch.testing.assert_close(ended[0], ended[1], rtol=0, atol=0)


def test_a_step_trains_the_ends_and_what_lies_between(supernet: Supernet) -> None:
    """One step's loss reaches the weights of every device and of every head."""
    step = SandwichStep(SPACE, num_random=2)
    loss = step(supernet, IMAGES_BCHW, LABELS_B, seeded(0))
    loss.backward()
    assert loss.dim() == 0
    assert all(weight.grad is not None for part in supernet.parts for weight in part.parameters())
    assert all(head.classifier.weight.grad is not None for head in supernet.heads.values())


def test_only_the_students_lose_devices(supernet: Supernet, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout each student is computed without some devices of its own, the largest with all."""
    outages = []
    forward = Supernet.forward

    def seen(self: Supernet, x: torch.Tensor, architecture: Any = None, outage: Any = None) -> torch.Tensor:
        outages.append(outage)
        return forward(self, x, architecture, outage)

    monkeypatch.setattr(Supernet, "forward", seen)
    loss = SandwichStep(SPACE, device_dropout=0.4)(supernet, IMAGES_BCHW, LABELS_B, seeded(0))
    loss.backward()
    assert outages[0] is None
    assert all(bool(outage.devices.any()) for outage in outages[1:])
    assert len(outages) == 4
    assert loss.item() != SandwichStep(SPACE)(supernet, IMAGES_BCHW, LABELS_B, seeded(0)).item()


@settings(deadline=None, max_examples=20)
@given(GENOTYPES)
def test_a_network_of_the_supernet_loses_devices_as_it_does_alone(genotype: dict[str, Any]) -> None:
    """Without some devices too, a network that is taken out gives the supernet's answers."""
    architecture = WIDE.architecture_of(genotype)
    outage = draw_outage(planned(architecture).schedule.plan, len(LABELS_B), seeded(0), 0.3, 0.2)
    own = EXACT_SUPERNET.extract(architecture).double().train()
    with torch.no_grad():
        found = EXACT_SUPERNET(IMAGES_BCHW.double(), architecture, outage)
        expected = own(IMAGES_BCHW.double(), outage=outage)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_without_dropout_a_step_draws_what_it_did(supernet: Supernet) -> None:
    """The generator is where drawing the students alone leaves it."""
    step, generator, alone = SandwichStep(SPACE), seeded(0), seeded(0)
    step(supernet, IMAGES_BCHW, LABELS_B, generator)
    step.students(alone)
    assert torch.equal(generator.get_state(), alone.get_state())


def test_the_students_do_not_teach_the_largest(supernet: Supernet) -> None:
    """Distillation flows one way: the target is a constant to the students' losses."""
    step = SandwichStep(SPACE, num_random=0)
    (smallest,) = step.students(seeded(3))
    assert smallest.policy.readout.kind == "device"
    silent = (smallest.policy.readout.device + 1) % SPACE.num_devices  # has no say in the smallest
    whole = step(supernet, IMAGES_BCHW, LABELS_B, seeded(3))
    weight = supernet.parts[silent][0].reduce.conv.weight
    (gradient,) = torch.autograd.grad(whole, weight)
    own = nn.functional.cross_entropy(supernet(IMAGES_BCHW, step.largest), LABELS_B)
    (expected,) = torch.autograd.grad(own / 2, weight)  # the loss is the mean of two
    torch.testing.assert_close(gradient, expected)


def test_the_smallest_is_read_out_everywhere(supernet: Supernet) -> None:
    """Over the steps every read-out of the space is taught with the smallest network and no message."""
    step, generator = SandwichStep(SPACE, num_random=0), seeded(0)
    found = [step.students(generator)[0] for _ in range(40)]
    names = {
        a.policy.readout.kind if a.policy.readout.kind == "mean" else f"device:{a.policy.readout.device}" for a in found
    }
    assert names == set(SPACE.policy.readouts)
    assert not any(architecture.policy.points for architecture in found)


@pytest.mark.slow
def test_training_the_supernet_lowers_the_loss_of_each_architecture(supernet: Supernet) -> None:
    """A few steps on a handful of images make the largest, the smallest and unseen architectures better."""
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.15, momentum=0.9)
    step, generator = SandwichStep(SPACE), seeded(1)
    architectures = [step.largest, SPACE.architecture_of(SPACE.smallest()), *some_architectures(3)]
    before = losses(supernet, architectures)
    for _ in range(40):
        optimizer.zero_grad()
        step(supernet, IMAGES_BCHW, LABELS_B, generator).backward()
        optimizer.step()
    assert all(after < 0.9 * first for after, first in zip(losses(supernet, architectures), before, strict=True))


def losses(supernet: Supernet, architectures: list[Architecture]) -> list[float]:
    with torch.no_grad():
        return [float(nn.functional.cross_entropy(supernet(IMAGES_BCHW, a), LABELS_B)) for a in architectures]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
