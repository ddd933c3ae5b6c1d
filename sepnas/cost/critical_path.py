"""The critical path of a plan on a cluster: a lower bound on its time that does not depend on software."""

from __future__ import annotations

from sepnas.cost.playback import Passage
from sepnas.cost.routes import routes_of
from sepnas.cost.work import Work
from sepnas.plan.plan import Plan
from sepnas.spec.cluster import Cluster


def critical_path_s(plan: Plan, cluster: Cluster, batch: int = 1) -> float:
    """Seconds until the answer arrives if only computing, payload over bandwidth, and latency took time.

    On this path no message has overhead or a header, nothing is converted or merged, and no message waits for another.
    Longest computation of a device <= critical path <= simulated latency (of a plan without dead steps).
    """
    bare = cluster.with_checked(devices=tuple(device.with_checked(exchange=None) for device in cluster.devices))
    passage = Passage(Work(plan, bare, batch), _Unhindered(cluster))
    passage.play()
    return max(passage.latency_s, *passage.done_s)


class _Unhindered:
    """Carries every message at once, without queueing."""

    def __init__(self, cluster: Cluster) -> None:
        self._routes = routes_of(cluster)

    def carry(self, pair: tuple[int, int], posted_s: float, payload_bytes: int) -> tuple[float, float]:
        route = self._routes[pair]
        if route is None:
            return posted_s, posted_s
        return posted_s, posted_s + payload_bytes / route.bandwidth_bytes_per_s + route.latency_s
