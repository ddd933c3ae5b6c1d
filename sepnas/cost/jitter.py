"""Latency percentiles, from simulating many requests with random times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sepnas.cost.arbitration import take_turns
from sepnas.cost.playback import Passage
from sepnas.cost.routes import Network
from sepnas.cost.work import DeviceWork, Leg, Work
from sepnas.errors import SpecError
from sepnas.plan.plan import Plan
from sepnas.spec.cluster import Cluster, Link

Numbers = npt.NDArray[np.float64]


def latency_percentile(
    plan: Plan, cluster: Cluster, percentile: float, samples: int = 1000, seed: int = 0, batch: int = 1
) -> float:
    """The latency, in seconds, that ``percentile`` percent of requests do not exceed.

    Each segment time is multiplied by a lognormal factor of mean 1 and standard deviation ``Device.jitter``. Each
    message is delayed by an exponential time of mean ``Link.jitter_s``, but never overtakes an earlier message of its
    connection. The same seed gives the same number; without jitter it is the simulated latency. Raises
    :class:`SpecError` for a percentile outside 0..100 or without samples.
    """
    return float(np.percentile(sampled_latencies_s(plan, cluster, samples, seed, batch), _checked(percentile)))


def sampled_latencies_s(plan: Plan, cluster: Cluster, samples: int = 1000, seed: int = 0, batch: int = 1) -> Numbers:
    """The latencies of ``samples`` requests, ``(samples,)``."""
    if samples < 1:
        raise SpecError(f"`samples` must be at least 1, got {samples}")
    work = Work(plan, cluster, batch, with_tasks=True)
    take_turns(work)
    random = np.random.default_rng(seed)
    legs = [
        _jittered_legs(part, device.jitter, samples, random)
        for part, device in zip(work.devices, cluster.devices, strict=False)
    ]
    delays_s = _delays_s(work, samples, random)
    latencies_s = np.empty(samples)
    for sample in range(samples):
        passage = Passage(work, _DelayedNetwork(cluster, delays_s[sample]))
        passage.play([each[sample] for each in legs])
        latencies_s[sample] = passage.latency_s
    return latencies_s


def has_jitter(cluster: Cluster) -> bool:
    """Whether any time in the cluster is random."""
    return any(device.jitter for device in cluster.devices) or any(link.jitter_s for link in cluster.every_link)


def more_jitter(cluster: Cluster, jitter_s: float) -> Cluster:
    """The same cluster, with the mean delay of each message increased by ``jitter_s``."""

    def delayed(link: Link) -> Link:
        return link.model_copy(update={"jitter_s": link.jitter_s + jitter_s})

    client_link = None if cluster.client_link is None else delayed(cluster.client_link)
    return cluster.model_copy(update={"links": tuple(map(delayed, cluster.links)), "client_link": client_link})


def _checked(percentile: float) -> float:
    if not 0 <= percentile <= 100:  # written this way so that nan is refused too
        raise SpecError(f"a percentile must lie in 0..100, got {percentile!r}")
    return percentile


def _jittered_legs(part: DeviceWork, jitter: float, samples: int, random: np.random.Generator) -> list[list[Leg]]:
    """The legs of one device, drawn ``samples`` times."""
    if not jitter:
        return [part.legs] * samples
    # parameters of a lognormal of mean 1
    sigma = np.sqrt(np.log1p(jitter**2))
    seconds_SL = np.tile([leg[0] for leg in part.legs], (samples, 1))
    for index, tasks in enumerate(part.tasks[: len(part.legs)]):
        for doing, _, seconds in tasks:
            if doing == "compute":
                seconds_SL[:, index] += seconds * np.expm1(random.normal(-(sigma**2) / 2, sigma, samples))
    drawn: Sequence[Sequence[float]] = np.maximum(seconds_SL, 0).tolist()  # rounding may leave values below 0
    return [[(s, leg[1], leg[2]) for s, leg in zip(row, part.legs, strict=True)] for row in drawn]


def _delays_s(work: Work, samples: int, random: np.random.Generator) -> list[list[float]]:
    """The delays of the messages, in order, for each sample."""
    routes = Network(work.cluster).routes
    mean_s = [0.0 if (route := routes[pair]) is None else route.jitter_s for _, pair, _, _ in work.messages]
    delays: list[list[float]] = (random.exponential(size=(samples, len(mean_s))) * mean_s).tolist()
    return delays


class _DelayedNetwork(Network):
    """Delays each message by the next drawn delay; a connection keeps its messages in order."""

    def __init__(self, cluster: Cluster, delays_s: Sequence[float]) -> None:
        super().__init__(cluster)
        self._delays_s = iter(delays_s)
        self._latest_s: dict[tuple[int, int], float] = {}

    def carry(self, pair: tuple[int, int], posted_s: float, payload_bytes: int) -> tuple[float, float]:
        start_s, arrival_s = super().carry(pair, posted_s, payload_bytes)
        arrival_s = max(arrival_s + next(self._delays_s), self._latest_s.get(pair, 0.0))
        self._latest_s[pair] = arrival_s
        return start_s, arrival_s
