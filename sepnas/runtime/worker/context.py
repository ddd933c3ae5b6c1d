"""What a worker's sessions share."""

from __future__ import annotations

from dataclasses import dataclass

from sepnas.runtime.engines.shard import Shard
from sepnas.runtime.engines.torch_engine import Engine
from sepnas.runtime.transport.identity import Identity
from sepnas.runtime.worker.log import WorkerLog
from sepnas.runtime.worker.pace import EmulatedDevice
from sepnas.runtime.worker.peer_guard import PeerGuard
from sepnas.runtime.worker.stats import WorkerStats


@dataclass(frozen=True)
class WorkerContext:
    """One device's part of a deployment, ready to run.

    Attributes:
        shard: the device's program and weights.
        engine: computes the shard's segments.
        identity: certificate for TLS; None for plain TCP.
        stats, log: count and record what happens.
        guard: decides which addresses of peers may be dialed.
        emulated: the device to behave like, if any.
    """

    shard: Shard
    engine: Engine
    identity: Identity | None
    stats: WorkerStats
    log: WorkerLog
    guard: PeerGuard
    emulated: EmulatedDevice | None = None
