"""The run folder of an exploration: its settings, its progress and its front.

``run.json`` (settings), ``candidates.jsonl``, ``front.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from sepnas.exploration.candidate import SeparationCandidate
from sepnas.search.archive import Archive
from sepnas.search.explorer import StrategyName
from sepnas.search.folder import CANDIDATES_FILE, FRONT_FILE
from sepnas.search.settings import RunDocument
from sepnas.spec.cluster import Cluster
from sepnas.spec.document import Document
from sepnas.spec.figures import Count, NotNegative, NumDevices, Sha256, Text
from sepnas.spec.files import is_there

Accuracy = Annotated[float, Field(ge=0, le=1)]


class ExplorationRun(RunDocument):
    """The settings of an exploration. A resumed one must have the same, except ``candidates``, which may grow.

    ``graph_sha256`` and ``weights_sha256`` are of the network that is separated. ``images`` are those on which
    activations are measured at most, ``val_images`` those on which accuracies are.
    """

    format_name: ClassVar[str] = "sepnas.exploration-run"
    noun: ClassVar[str] = "exploration"
    fixed: ClassVar[tuple[str, ...]] = (
        "graph_sha256", "weights_sha256", "num_devices", "cluster", "data_sha256", "images",
        "val_images", "seed", "strategy",
    )  # fmt: skip
    free: ClassVar[tuple[str, ...]] = ("candidates", "network", "data")

    network: Text
    graph_sha256: Sha256
    weights_sha256: Sha256
    num_devices: NumDevices
    cluster: Cluster
    data: Text
    data_sha256: Sha256
    images: Count
    val_images: Count
    seed: int
    strategy: StrategyName = "predictive"
    candidates: Count


class SeparationFront(Document):
    """The Pareto front of a finished exploration, by rising bytes.

    ``original_accuracy`` is that of the network on the same ``val_images``, ``original_costs`` are those of one device
    that computes it alone; ``exact_bytes`` are those of which budgets are shares. ``evaluated`` of ``wanted``
    candidates: fewer if there are no more. ``rejected`` and ``duplicates`` were not evaluated.
    """

    format_name: ClassVar[str] = "sepnas.exploration-front"

    original_accuracy: Accuracy
    original_costs: dict[str, float]
    val_images: Count
    exact_bytes: Annotated[int, Field(ge=0)]
    evaluated: Count
    wanted: Count
    rejected: Annotated[int, Field(ge=0)] = 0
    duplicates: Annotated[int, Field(ge=0)] = 0
    hypervolume: float
    seconds: NotNegative
    candidates: Annotated[tuple[SeparationCandidate, ...], Field(min_length=1)]


def archive_in(folder: Path) -> Archive[SeparationCandidate]:
    """The candidates of the exploration in ``folder``."""
    return Archive(folder / CANDIDATES_FILE, SeparationCandidate.from_line)


def finished_front(folder: Path, wanted: int) -> SeparationFront | None:
    """The front of an exploration that is finished with so many candidates; None for another one."""
    if not is_there(folder / FRONT_FILE):
        return None
    found = SeparationFront.load(folder / FRONT_FILE)
    return found if found.wanted == wanted else None
