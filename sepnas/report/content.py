"""The content of the report page: plain values that the caller converts from searches, plans and traces.

Every part of :class:`ReportContent` is optional; the page omits missing parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sepnas.report.comparison.values import Comparison
from sepnas.report.plan_map.values import PlanMap
from sepnas.separable.architecture import Architecture
from sepnas.spec.evaluation import ClassifierEvaluation

SpanKind = Literal["compute", "send", "recv", "merge", "wait"]
Objectives = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One row of the summary: an ``expected`` value (predicted, or of the whole network) and the ``observed`` one.

    ``agree`` is None if the two need not agree.
    """

    name: str
    expected: str
    observed: str = ""
    agree: bool | None = None


@dataclass(frozen=True, slots=True)
class CandidatePoint:
    """One candidate of a search; ``objectives`` has ``accuracy``, ``latency_s`` and ``payload_bytes``.

    The accuracy is the supernet's. ``label`` is the name of a named policy (all-to-all, hand-made, none).
    ``on_early_front``: it was on the front after the first ``early`` candidates. ``traits`` are numbers of its policy,
    named in ``figures/parallel.py``, with the same names for all candidates; ``phrase`` describes the policy in a few
    words. ``architecture`` has the policy to draw. Further values of ``objectives`` (see ``sepnas/objectives``) are
    shown if they are shown by default or are objectives of the search.
    """

    index: int
    objectives: Objectives
    on_front: bool = False
    label: str | None = None
    chosen: bool = False
    knee: bool = False
    on_early_front: bool = False
    traits: Mapping[str, float] = field(default_factory=dict)
    phrase: str = ""
    architecture: Architecture | None = None
    devices_used: int | None = None


@dataclass(frozen=True, slots=True)
class ExploredSeparations:
    """The separations of a network that `sepnas explore` evaluated, and the network itself on one device.

    ``command`` separates it as at the knee.
    """

    candidates: tuple[CandidatePoint, ...]
    original_accuracy: float
    original_costs: Objectives
    cluster: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class FrontGrowth:
    """The front after the first ``evaluated`` candidates."""

    evaluated: int
    front_size: int
    hypervolume: float
    best_accuracy: float


@dataclass(frozen=True, slots=True)
class ShownSpan:
    """One activity of ``rank``, from ``start_s`` to ``end_s`` after the arrival of the request.

    ``peer`` is the other end of a transfer; a ``send`` and a ``recv`` of the same ``name`` between the same two ranks
    are the two ends of one message.
    """

    rank: int
    kind: SpanKind
    name: str
    start_s: float
    end_s: float
    peer: int | None = None
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class ShownTimeline:
    """One inference; ``title`` is ``predicted`` or ``measured``, ``latency_s`` the time of the answer."""

    title: str
    spans: tuple[ShownSpan, ...]
    latency_s: float


@dataclass(frozen=True, slots=True)
class ShownLink:
    """Payload bytes of one inference from ``source`` to ``destination``."""

    source: int
    destination: int
    predicted: int
    counted: int


@dataclass(frozen=True, slots=True)
class ClassAccuracy:
    """The share of one class's images that were classified correctly."""

    name: str
    whole: float
    devices: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The accuracy of the whole network and of the devices on the test split."""

    whole: float
    devices: float
    num_images: int
    answers_that_differ: int
    classes: tuple[ClassAccuracy, ...] = ()


@dataclass(frozen=True, slots=True)
class SplitAccuracy:
    """The best epoch's accuracy on a split, overall and by class (name, images, share), measured by ``command``."""

    split: str
    images: int
    accuracy: float
    mean_of_classes: float
    classes: tuple[tuple[str, int, float], ...]
    command: str
    date: str


@dataclass(frozen=True, slots=True)
class Curve:
    """One value per epoch; curves of the same ``panel`` (``loss``, ``accuracy``) share a picture."""

    name: str
    panel: str
    values: tuple[float, ...]
    first_epoch: int = 1


@dataclass(frozen=True, slots=True)
class DrawnMap:
    """The map of a plan; a ``folded`` one opens on demand."""

    found: PlanMap
    folded: bool = False


@dataclass(frozen=True, slots=True)
class ReportContent:
    """The parts of the page, from top to bottom.

    ``growth`` has one step for each of ``candidates``, in the order of evaluation; the first ``early`` steps count as
    the beginning of the search.
    ``timelines`` share one picture, the first (predicted) above the second (measured).
    ``architecture`` is the chosen one, whose transmission policy is drawn.
    ``about`` names the run, its data and the date. The time line is predicted for ``cluster``, the candidates'
    latencies for ``search_cluster``. ``pick`` is the command that picks a candidate, without the candidate's number.
    ``classifiers`` are what `sepnas evaluate` measured, the newest last; ``separations`` are what `sepnas explore` did.
    """

    title: str = "sepnas report"
    about: str = ""
    lead: str = ""
    cluster: str = ""
    search_cluster: str = ""
    pick: str = ""
    summary: tuple[SummaryRow, ...] = ()
    candidates: tuple[CandidatePoint, ...] = ()
    growth: tuple[FrontGrowth, ...] = ()
    early: int = 0
    objectives: tuple[str, ...] = ("accuracy", "latency_s", "payload_bytes")
    timelines: tuple[ShownTimeline, ...] = ()
    links: tuple[ShownLink, ...] = ()
    accuracy: Accuracy | None = None
    architecture: Architecture | None = None
    history: tuple[Curve, ...] = ()
    evaluations: tuple[SplitAccuracy, ...] = ()
    classifiers: tuple[ClassifierEvaluation, ...] = ()
    machine: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    comparison: Comparison | None = None
    maps: tuple[DrawnMap, ...] = ()
    plan_timeline: ShownTimeline | None = None
    separations: ExploredSeparations | None = None
