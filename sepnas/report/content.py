"""What the report page can show: plain values, converted by the caller from searches, plans and traces.

Every part of :class:`ReportContent` is optional; a part that is not there leaves no trace on the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sepnas.separable.architecture import Architecture

SpanKind = Literal["compute", "send", "recv", "merge", "wait"]
Objectives = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One line of the summary: what was ``expected`` (predicted, the whole network) and what was ``observed``.

    ``agree`` is None where the two need not agree.
    """

    name: str
    expected: str
    observed: str = ""
    agree: bool | None = None


@dataclass(frozen=True, slots=True)
class CandidatePoint:
    """One candidate of a search; ``objectives`` has ``accuracy``, ``latency_s`` and ``payload_bytes``.

    ``label`` names a policy that people know (all-to-all, hand-made, none). ``on_early_front``: it was on the front
    after the first ``early`` candidates. ``traits`` are numbers of its policy (``figures/parallel.py`` names them), all
    candidates have the same; ``phrase`` is the policy in a few words. ``architecture`` has the policy that is drawn.
    Of further objectives (see ``sepnas/objectives``) those are shown that ``objectives`` has and that are shown by
    default or are objectives of the search; the accuracy is that of the supernet.
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
class FrontGrowth:
    """The front after ``judged`` candidates."""

    judged: int
    front_size: int
    hypervolume: float
    best_accuracy: float


@dataclass(frozen=True, slots=True)
class ShownSpan:
    """What ``rank`` did from ``start_s`` to ``end_s`` after the request came in.

    ``peer`` is the other end of a transfer; a ``send`` and a ``recv`` of the same ``name`` between the same
    two ranks are the two ends of one message.
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
    """One inference; ``title`` says which (``predicted``, ``measured``), ``latency_s`` when the answer came."""

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
    """The share of one class's images that were answered correctly."""

    name: str
    whole: float
    devices: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The test split through the whole network and through the devices."""

    whole: float
    devices: float
    num_images: int
    answers_that_differ: int
    classes: tuple[ClassAccuracy, ...] = ()


@dataclass(frozen=True, slots=True)
class SplitAccuracy:
    """The best epoch's accuracy on a split: of all images and of each class (name, images, share), by ``command``."""

    split: str
    images: int
    accuracy: float
    mean_of_classes: float
    classes: tuple[tuple[str, int, float], ...]
    command: str
    date: str


@dataclass(frozen=True, slots=True)
class Curve:
    """One value an epoch; curves of the same ``panel`` (``loss``, ``accuracy``) share a picture."""

    name: str
    panel: str
    values: tuple[float, ...]
    first_epoch: int = 1


@dataclass(frozen=True, slots=True)
class ReportContent:
    """The parts of the page, from top to bottom.

    ``growth`` has one step for each candidate of ``candidates``, in the order of their judging; ``early`` is how many
    of them count as the search's beginning.
    ``timelines`` share one picture; the first stands above the second (predicted above measured).
    ``architecture`` is the chosen one: its transmission policy is drawn.
    ``about`` names the run, its data and the day. ``cluster`` and ``search_cluster`` are those for which the time line
    and the candidates' latencies were predicted. ``pick`` is the command that takes a candidate, without its number.
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
    machine: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
