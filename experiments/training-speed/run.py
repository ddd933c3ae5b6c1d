"""How much faster is training here than the same network in plain PyTorch, and by which of its parts?"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from before import compare
from naive import NaiveNetwork, batches
from torch import Tensor, nn
from torch.nn import functional

from sepnas.errors import SepnasError
from sepnas.nets.separable import SeparableNetwork
from sepnas.results.recorder import Recorder
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.separable.policy import Readout
from sepnas.train.batches import Batches
from sepnas.train.checkpoint import new_network
from sepnas.train.data import load_dataset
from sepnas.train.images import ImageData
from sepnas.train.loop import pick_device
from sepnas.train.recipe import RECIPES

HERE = Path(__file__).resolve().parent
RECIPE = RECIPES["cifar-sgd"]
Source = Iterator[tuple[Tensor, Tensor]]
BATCH = RECIPE.batch_size
ROUNDS, STEPS = 5, 2


def network_of(name: str, stem_stride: int) -> Architecture:
    architecture = named_architecture(name, 4, "hand-made", 100, image_size=32)
    policy = architecture.policy.model_copy(update={"readout": Readout(kind="mean")})
    return Architecture.from_data(architecture.to_data() | {"stem_stride": stem_stride, "policy": policy.to_data()})


NETWORKS = {"resnext20_4x16d, stem of stride 2": ("resnext20_4x16d", 2), "resnext20_4x16d": ("resnext20_4x16d", 1)}


class Variant:
    """A way to train: steps are taken a few at a time, in turn with the other ways."""

    def __init__(
        self, network: nn.Module, source: Source, device: torch.device, bf16: bool, channels_last: bool, compiled: bool
    ) -> None:
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(device).to(memory_format=self.layout).train()  # type: ignore[call-overload]
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.network) if compiled else self.network
        self.source, self.device, self.bf16 = source, device, bf16
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.1, 0.9, nesterov=True, weight_decay=5e-4)
        self.images_per_s: list[float] = []

    def step(self) -> None:
        images, labels = next(self.source)
        images = images.to(self.device).contiguous(memory_format=self.layout)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = functional.cross_entropy(self.forward(images), labels.to(self.device), label_smoothing=0.1)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def steps(self, count: int, note: bool) -> None:
        self._wait()
        started = time.perf_counter()
        for _ in range(count):
            self.step()
        self._wait()
        if note:
            self.images_per_s.append(count * BATCH / (time.perf_counter() - started))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def on_device(data: ImageData, device: torch.device) -> Source:
    """The training loop's own batches, without end."""
    made, generator = Batches(data, RECIPE, device), torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(data.train), generator=generator)
        for batch in made.of(order, int(torch.randint(2**32, (), generator=generator))):
            yield batch.images, batch.labels


def variants(
    architecture: Architecture, data: ImageData, device: torch.device, workers: int, compiled: bool
) -> dict[str, Variant]:
    """The naive one first, then each with one thing more up to the recipe; after it other ways to do the same."""

    def naive(batched: bool = False) -> NaiveNetwork:
        network = NaiveNetwork(architecture, batched)
        network.take(new_network(architecture))
        return network

    def make(network: nn.Module, source: Source, *switches: bool) -> Variant:
        bf16, channels_last, through_compiler = (*switches, False, False, False)[:3]
        return Variant(network, source, device, bf16, channels_last, through_compiler)

    found = {
        "naive": make(naive(), batches(data, BATCH, workers)),
        "data on the device": make(naive(), on_device(data, device)),
        "a network for each device": make(new_network(architecture), on_device(data, device)),
        "channels last": make(new_network(architecture), on_device(data, device), False, True),
        "bf16 (the recipe)": make(new_network(architecture), on_device(data, device), True, True),
        "bf16, as groups": make(naive(), on_device(data, device), True, True),
        "bf16, as groups, 1x1 as batched products": make(naive(batched=True), on_device(data, device), True),
    }
    if compiled:
        found["bf16, compiled"] = make(new_network(architecture), on_device(data, device), True, True, True)
    return found


@torch.inference_mode()
def largest_difference(architecture: Architecture) -> float:
    """Between the logits of all, the same weights given: that they are the same network."""
    network: SeparableNetwork = new_network(architecture).eval()
    images = torch.randn(8, architecture.in_channels, architecture.image_size, architecture.image_size)
    logits, found = network(images), []
    for batched in (False, True):
        naive = NaiveNetwork(architecture, batched)
        naive.take(network)
        found.append(float((naive.eval()(images) - logits).abs().max() / logits.abs().max()))
    return max(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="folder:data/cifar100", help="cifar100 (torchvision), or folder:PATH")
    parser.add_argument("--data-root", type=Path, default=None, help="where torchvision's files lie")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of a variant in each round")
    parser.add_argument(
        "--workers", type=int, default=None, help="that read for the naive way [8 beside a GPU, else 0]"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile too; it takes minutes")
    parser.add_argument("--before", metavar="COMMIT", help="compare with this commit instead, in result-before.json")
    parser.add_argument("--out", type=Path, default=HERE, help="where result-DEVICE.json goes, for a trial elsewhere")
    chosen = parser.parse_args()
    if (chosen.rounds, chosen.steps) != (ROUNDS, STEPS) and chosen.out == HERE:
        parser.error("--rounds and --steps are for trials: name another place for the result, with --out")
    if chosen.before:
        with Recorder(chosen.out / "result-before.json", seeds=(0,), root=HERE) as record:
            compare(record, chosen.before)
        return
    torch.set_num_threads(chosen.threads)
    torch.set_flush_denormal(True)
    torch.backends.cudnn.deterministic = True  # as the training loop does it
    device, data = pick_device(chosen.device), load_dataset(chosen.data, root=chosen.data_root)
    rows: list[dict[str, Any]] = []
    with Recorder(chosen.out / f"result-{device.type}.json", seeds=(0,), root=HERE) as record:
        for name, (family, stride) in NETWORKS.items():
            architecture = network_of(family, stride)
            difference = largest_difference(architecture)
            assert difference < 1e-4, difference
            workers = chosen.workers if chosen.workers is not None else 8 if device.type == "cuda" else 0
            ways = variants(architecture, data, device, workers, chosen.compile)
            for round_ in range(chosen.rounds + 1):
                for way in ways.values():
                    way.steps(chosen.steps, note=round_ > 0)
            base = ways["naive"].images_per_s
            for title, way in ways.items():
                gains = [a / b for a, b in zip(way.images_per_s, base, strict=True)]
                rows.append({"network": name, "way": title, "images_per_s": median(way.images_per_s),
                             "speedup": median(gains), "low": min(gains), "high": max(gains)})  # fmt: skip
                print(rows[-1], flush=True)
            gain = next(row for row in rows if (row["network"], row["way"]) == (name, "bf16 (the recipe)"))
            measure = "training_speedup_over_naive" + ("" if stride == 2 else "_full_stem")
            record.measure(measure, gain["speedup"], "", gain["low"], gain["high"], chosen.rounds, ">= 1.5")
            record.measure(f"{measure}_largest_difference", difference)
        record.table("ways", rows)


if __name__ == "__main__":
    try:
        main()
    except SepnasError as error:
        raise SystemExit(f"error: {error}") from None
