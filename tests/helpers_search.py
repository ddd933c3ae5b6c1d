"""Searches that nobody had to train for: real spaces, policies and costs, accuracies made up from the costs."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

from sepnas.search.archive import Archive
from sepnas.search.candidate import Candidate
from sepnas.search.folder import RUN_FILE, SearchRun, archive_of
from sepnas.search.screen import Screen, first_genotypes
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import Cluster, Power, uniform_cluster
from sepnas.train.recipe import RECIPES


def evaluated_run(
    folder: Path,
    space: SearchSpace,
    number: int,
    wanted: int | None = None,
    first: Iterable[dict] = (),
    cluster: Cluster | None = None,
) -> list[Candidate]:
    """The folder of a search of ``number`` candidates that was asked for ``wanted``; the front is not written.

    ``first`` are evaluated before those that every search begins with. Without ``cluster`` it is a uniform one.
    """
    cluster, draw = cluster or uniform_cluster(space.num_devices), random.Random(7)
    run = SearchRun(
        space=space,
        cluster=cluster,
        data="digits",
        data_sha256="",
        recipe=RECIPES["digits"],
        seed=0,
        candidates=wanted or number,
    )
    run.save(folder / RUN_FILE)
    archive, screen = archive_of(folder, space), Screen(space, cluster)
    for genotype in (*first, *first_genotypes(space)):
        _evaluate(archive, screen, genotype, draw, number)
    while len(archive) < number:
        _evaluate(archive, screen, space.sample(draw.randrange), draw, number)
    return archive.candidates()


def powered_cluster(num_devices: int) -> Cluster:
    """Equal devices that need 1 W, and 2 W more while they compute."""
    cluster = uniform_cluster(num_devices)
    power = Power(idle_w=1.0, compute_w=2.0)
    devices = tuple(device.model_copy(update={"power": power}) for device in cluster.devices)
    return cluster.model_copy(update={"devices": devices})


def _evaluate(archive: Archive[Candidate], screen: Screen, genotype: dict, draw: random.Random, number: int) -> None:
    found = screen(genotype)
    if archive.get(found.key) is not None or len(archive) == number:
        return
    accuracy = 0.9 + 0.09 * (1 - 1 / (1 + found.costs["payload_bytes"] / 5e3)) - 0.02 * draw.random()
    measured = {**found.costs, "accuracy": accuracy}
    archive.append(
        Candidate(
            index=len(archive),
            key=found.key,
            genotype=found.genotype,
            objectives={name: measured[name] for name in screen.space.objectives},
            costs=found.costs,
            architecture=found.architecture,
        )
    )
