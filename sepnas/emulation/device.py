"""A worker that behaves like a device of a cluster: its pace and its links."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sepnas.emulation.link_shaping import Shaper
from sepnas.emulation.pace import EmulatedPace
from sepnas.errors import SpecError
from sepnas.plan.steps import Compute, Step
from sepnas.runtime.engines.shard import Shard
from sepnas.spec.emulation import Emulation


class Emulated:
    """The emulation of a worker's device: it lives as long as the worker, over all sessions."""

    def __init__(self, emulation: Emulation, program: Sequence[Step]) -> None:
        self.plan = emulation.plan
        computes = {index for index, step in enumerate(program) if isinstance(step, Compute)}
        kernel = emulation.shaping == "netns"  # it counts from when a message is really sent
        self.pace = EmulatedPace(
            emulation.steps_s, emulation.batch, computes, emulation.jitter, emulation.seed, punctual=kernel
        )
        self.links = Shaper(emulation, lambda: self.pace.now_ns)

    def lateness(self) -> dict[str, dict[str, float]]:
        """Delays of steps and of received messages, as plain data."""
        return {"steps": self.pace.lateness.to_data(), "messages": self.links.lateness()}


def load_emulated(path: str | os.PathLike[str], shard: Shard) -> Emulated:
    """Read the emulation of a shard's device; raises :class:`SpecError` if it belongs to another device."""
    emulation, manifest = Emulation.load(path), shard.manifest
    wanted: dict[str, object] = {
        "deployment_id": manifest.deployment_id,
        "rank": manifest.rank,
        "num_devices": manifest.num_devices,
    }
    for name, value in wanted.items():
        found = getattr(emulation, name)
        if found != value:
            raise SpecError(f"{path}: field `{name}`: is {found}, but {shard.folder} has {value}: another emulation")
    if emulation.plan not in shard.plans:
        raise SpecError(f"{path}: field `plan`: is {emulation.plan}, but {shard.folder} has {', '.join(shard.plans)}")
    program = shard.plans[emulation.plan].program
    if len(emulation.steps_s) != len(program):
        raise SpecError(
            f"{path}: field `steps_s`: has {len(emulation.steps_s)} steps, but the program in {shard.folder} has "
            f"{len(program)}"
        )
    return Emulated(emulation, program)
