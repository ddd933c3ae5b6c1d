"""Whether a cluster has the figures from which the objectives of a search are computed."""

from __future__ import annotations

from collections.abc import Iterable

from sepnas.errors import SearchError
from sepnas.objectives import OBJECTIVES, Objective
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import Cluster


def check_needs(space: SearchSpace, cluster: Cluster) -> None:
    """Raise :class:`SearchError` if the space optimises or bounds what the cluster has no figures for."""
    for name in space.objectives:
        if lack := find_lack(OBJECTIVES[name], cluster, space.num_devices):
            raise SearchError(f"space '{space.name}' has the objective {name}, but {lack}")
    for bound in space.constraints.bounds(evaluated=False):
        if lack := find_lack(bound.objective, cluster, space.num_devices):
            raise SearchError(f"space '{space.name}' has `constraints.{bound.objective.bound_name}`, but {lack}")


def check_known(objectives: Iterable[Objective], space: SearchSpace, cluster: Cluster) -> None:
    """Raise :class:`SearchError` if a search of ``space`` on ``cluster`` knows no value of one of ``objectives``."""
    for objective in objectives:
        if lack := find_lack(objective, cluster, space.num_devices):
            raise SearchError(f"this search has no {objective.name}: {lack}, and search again")


def find_lack(objective: Objective, cluster: Cluster, num_devices: int) -> str:
    """The first device without the figures that the objective needs, as text; empty if none lacks them."""
    field = objective.needs_of_devices
    if field is None:
        return ""
    for rank, device in enumerate(cluster.devices[:num_devices]):
        if not device.has_figures(field):
            return (
                f"cluster '{cluster.name}' gives no {field} figures for device '{device.name}'; set "
                f"`devices.{rank}.{field}` in the cluster file (`sepnas schema cluster`)"
            )
    return ""
