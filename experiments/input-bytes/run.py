"""What the client sends to the devices, as fp32 values and as bytes, beside what the devices send each other."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from sepnas.deploy.export import export_deployment
from sepnas.local.processes import LocalWorkers
from sepnas.plan.plan import Plan
from sepnas.plan.wire import UNCONVERTED, payload_bytes
from sepnas.results.recorder import Recorder
from sepnas.runtime.client.bench import random_inputs
from sepnas.runtime.client.session import Session
from sepnas.runtime.transport.counters import Counters
from sepnas.separable.architecture import Architecture, named_policy
from sepnas.separable.build import build_plan
from sepnas.separable.space import SearchSpace
from sepnas.train.checkpoint import new_network

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CIFAR = HERE.parent / "cifar100-cpu"
sys.path.append(str(CIFAR))
CONFIG = yaml.safe_load((HERE / "config.yaml").read_text())


@dataclass(frozen=True)
class Row:
    """A network of an experiment, and its plan's payload bytes for one image."""

    experiment: str
    name: str
    architecture: Architecture
    plan: Plan

    @property
    def before_bytes(self) -> int:
        """The input with four bytes a value."""
        messages = (message for message in self.plan.messages() if message.source < 0)
        return sum(payload_bytes(message.shape.num_values, UNCONVERTED) for message in messages)

    def sizes(self) -> dict[str, float]:
        plan, before = self.plan, self.before_bytes
        after, total = plan.input_bytes(), plan.total_bytes()
        total_before = total - after + before
        return {
            "payload_bytes": plan.payload_bytes(),
            "output_bytes": plan.output_bytes(),
            "input_bytes_before": before,
            "input_bytes_after": after,
            "total_bytes_before": total_before,
            "total_bytes_after": total,
            "input_share_before": before / total_before,
            "input_share_after": after / total,
        }

    def data(self) -> dict[str, object]:
        return {"experiment": self.experiment, "network": self.name, **self.sizes()}


def rows() -> Iterator[Row]:
    yield from _of_cifar()
    yield from _of_demo()


def _of_cifar() -> Iterator[Row]:
    """Every network of the table of ``cifar100-cpu``, in each format of its messages."""
    from cells import NAMED, SILENT, WIRES, architecture_of, searched

    for network in (*SILENT, *NAMED, *searched()):
        for wire in WIRES[:1] if network in SILENT else WIRES:
            architecture = architecture_of(network, wire)
            name = network if network in SILENT else f"{network}, {wire}"
            yield Row("cifar100-cpu", name, architecture, build_plan(architecture))


def _of_demo() -> Iterator[Row]:
    """The demo's networks: all-to-all, its largest and smallest candidate, and the smallest of some at random."""
    space = SearchSpace.load(ROOT / "search_spaces" / "demo.yaml")
    largest = space.architecture_of(space.largest())
    draw = random.Random(CONFIG["seed"]).randrange
    drawn = [space.architecture_of(space.sample(draw)) for _ in range(CONFIG["demo_candidates"])]
    talking = [each for each in drawn if len([p for p in build_plan(each).programs if p]) == space.num_devices]
    chosen = {
        "all-to-all, fp32": largest.with_policy(named_policy("all-to-all", space.num_devices, largest.depth)),
        "the largest candidate": largest,
        "the smallest candidate": space.architecture_of(space.smallest()),
        "the fewest bytes of the random ones": min(talking, key=lambda each: build_plan(each).payload_bytes()),
    }
    for name, architecture in chosen.items():
        yield Row("demo", name, architecture, build_plan(architecture))


def counted(row: Row) -> Counters:
    """The bytes on the sockets for one image, on real workers with random weights."""
    architecture = row.architecture
    channels = architecture.in_channels
    with tempfile.TemporaryDirectory(prefix="sepnas-input-bytes-") as folder:
        deployment = Path(folder) / "deployment"
        export_deployment(
            new_network(architecture), deployment, name="input-bytes", engines=("onnxruntime",),
            classes=[str(index) for index in range(architecture.num_classes)],
            mean=(0.5,) * channels, std=(0.25,) * channels,
        )  # fmt: skip
        with (
            LocalWorkers(deployment, architecture.num_devices) as workers,
            Session(deployment, workers.hosts) as session,
        ):
            session.infer(random_inputs(session.manifest, 1))
            return session.counters()


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with Recorder(HERE / "result.json", seeds=(CONFIG["seed"],), root=HERE) as record:
        found = {f"{row.experiment}: {row.name}": row for row in rows()}
        record.table("networks", [row.data() for row in found.values()])
        for label, place in CONFIG["measured"].items():
            row = found[place]
            sizes, sockets = row.sizes(), counted(row)
            for name in ("input_bytes_before", "input_bytes_after", "total_bytes_before", "total_bytes_after"):
                record.measure(f"{name}_{label}", sizes[name], "B")
            for name in ("input_share_before", "input_share_after"):
                record.measure(f"{name}_{label}", sizes[name])
            plan = row.plan
            for name, value, predicted in (
                ("input_bytes", sockets.input_bytes, plan.input_bytes()),
                ("payload_bytes", sockets.payload_bytes, plan.payload_bytes()),
                ("total_bytes", sockets.total_bytes, plan.total_bytes()),
            ):
                record.measure(f"{name}_counted_{label}", value, "B", goal=f"== {predicted}")


if __name__ == "__main__":
    main()
