"""What a candidate for images of 224 pixels costs with each stem: counts, predictions, and time to train a step."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from sepnas.cost.counts import count_network
from sepnas.cost.simulator import simulate
from sepnas.nets.supernet import Supernet
from sepnas.results.recorder import Recorder
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.separable.build import build_plan
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import Cluster
from sepnas.spec.presets import preset_cluster
from sepnas.train.checkpoint import new_network
from sepnas.train.supernet import SandwichStep

HERE = Path(__file__).resolve().parent
SPACE = HERE.parents[1] / "search_spaces" / "large-images.yaml"
SIDE, DEVICES, CLASSES, BATCH, SUPERNET_BATCH, ROUNDS = 224, 4, 10, 8, 4, 5
SMALLER = {"depth": [10, 18], "bottleneck_width": [4, 8]}
"""What fits into memory with the stem before: feature maps of 224 pixels a side."""
BEFORE = ("plain", 1)
"""The stem of every network before there were others."""
STEMS = (BEFORE, ("plain", 2), ("pooled", 4), ("resnet", 4), ("deep", 4), ("patch", 4))
CANDIDATE = "resnet18_4x8"
NETWORKS = ("resnet18_4x16", "resnet50b_4x16", "resnext50_32x4d", "resnext56_4x16d", "vgg11_4x16", "mobilenetv2_4x16")
PUBLISHED_MACS = {"resnet18_1x64": 1.82e9, "resnet50b_1x64": 4.09e9, "resnext50_32x4d": 4.26e9}
SPREAD = 0.01


@cache
def boards() -> Cluster:
    return preset_cluster(["raspberry-pi-4b"] * DEVICES, "ethernet-100mbit", "boards")


def label_of(stem: str, stride: int) -> str:
    return f"{stem}_{stride}" if stem == "plain" else stem


def network_of(name: str, stem: str | None, stride: int | None, devices: int = DEVICES) -> Architecture:
    """A network for images of 224 pixels with the hand-made policy; None: the family's stem for them."""
    return named_architecture(name, devices, "hand-made", CLASSES, image_size=SIDE, stem=stem, stem_stride=stride)


def row_of(architecture: Architecture) -> dict[str, object]:
    """Counts, and the predicted latency of one image on the boards, with messages and without."""
    counts = count_network(architecture)
    silent = architecture.with_policy(architecture.policy.model_copy(update={"points": ()}))
    latency_s, silent_s = (simulate(build_plan(each), boards()).latency_s for each in (architecture, silent))
    return {
        "network": architecture.name,
        "stem": label_of(architecture.stem, architecture.stem_stride),
        "macs": counts.macs,
        "macs_per_device": max(counts.macs_per_device),
        "parameters": counts.parameters,
        "payload_bytes": counts.payload_bytes,
        "peak_memory_bytes": max(counts.peak_memory_bytes),
        "latency_s": round(latency_s, 5),
        "latency_without_messages_s": round(silent_s, 5),
    }


def training_step(architecture: Architecture) -> Callable[[], None]:
    """A step of the candidate in fp32, as a CPU without bf16 takes it."""
    network = new_network(architecture).to(memory_format=torch.channels_last).train()
    images = torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    labels, optimizer = torch.arange(BATCH) % CLASSES, torch.optim.SGD(network.parameters(), 0.01)
    return _step(lambda: functional.cross_entropy(network(images), labels), network, optimizer)


def supernet_step(stem: str, stride: int) -> Callable[[], None]:
    """A step of the supernet of part of the shipped space: its largest network, its smallest, and two random ones."""
    data = SearchSpace.load(SPACE).to_data()
    space = SearchSpace.from_data(data | {"network": data["network"] | SMALLER | {"stem": stem, "stem_stride": stride}})
    network, sandwich = Supernet(space).to(memory_format=torch.channels_last).train(), SandwichStep(space)
    images = torch.randn(SUPERNET_BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    labels, optimizer = torch.arange(SUPERNET_BATCH) % CLASSES, torch.optim.SGD(network.parameters(), 0.01)
    draws = torch.Generator().manual_seed(0)
    return _step(lambda: sandwich(network, images, labels, draws), network, optimizer)


def _step(loss: Callable[[], torch.Tensor], network: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def timed(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of one thread for each step, in rounds of all of them: the machine's speed varies."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if number:  # the first round warms up
                found[name].append(time.process_time() - start)
    return found


def note_steps(
    record: Recorder, what: str, macs: dict[str, int], found: dict[str, list[float]]
) -> Iterator[dict[str, object]]:
    """Record the time of each stem's step, and the speedup over the stem before; yields rows of the table."""
    before = found[label_of(*BEFORE)]
    for name, spent_s in found.items():
        ratios = [slow / fast for slow, fast in zip(before, spent_s, strict=True)]
        record.measure(
            f"{what}_step_s_{name}",
            statistics.median(spent_s),
            "s",
            low=min(spent_s),
            high=max(spent_s),
            n=len(spent_s),
        )
        row: dict[str, object] = {"stem": name, "step": what, "cpu_s": round(statistics.median(spent_s), 4)}
        row |= {"times_faster": round(statistics.median(ratios), 2)}
        yield row | ({"times_fewer_macs": round(macs[label_of(*BEFORE)] / macs[name], 2)} if macs else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="Rounds of training steps.")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    with Recorder(HERE / "result.json", seeds=(0,), root=HERE) as record:
        for name, published in PUBLISHED_MACS.items():
            counts = count_network(named_architecture(name, 1, "none", 1000, image_size=SIDE))
            record.measure(f"macs_{name}", counts.macs, goal=f"<= {(1 + SPREAD) * published:g}")
        rows = [row_of(network_of(CANDIDATE, *stem)) for stem in STEMS]
        for row in rows:
            for name, unit in (("macs", ""), ("latency_s", "s"), ("payload_bytes", "B")):
                record.measure(f"{name}_{row['stem']}", row[name], unit)  # type: ignore[arg-type]
        record.table("candidate", rows)
        families = dict.fromkeys(network_of(name, *stem) for name in NETWORKS for stem in (BEFORE, (None, None)))
        record.table("families", map(row_of, families))
        steps = {label_of(*stem): training_step(network_of(CANDIDATE, *stem)) for stem in STEMS}
        macs = {str(row["stem"]): int(str(row["macs"])) for row in rows}
        trained = timed(steps, rounds)
        table = [*note_steps(record, "train", macs, trained)]
        del steps
        searched = timed({label_of(*stem): supernet_step(*stem) for stem in (BEFORE, ("resnet", 4))}, rounds)
        table += note_steps(record, "supernet", {}, searched)
        record.table("steps", table)
        record.measure("macs_ratio_resnet", macs[label_of(*BEFORE)] / macs["resnet"])
        for what, found in (("train", trained), ("supernet", searched)):
            ratios = [slow / fast for slow, fast in zip(found[label_of(*BEFORE)], found["resnet"], strict=True)]
            spread = {"low": min(ratios), "high": max(ratios), "n": len(ratios)}
            record.measure(f"{what}_speedup_resnet", statistics.median(ratios), "x", goal=">= 8", **spread)


if __name__ == "__main__":
    main()
