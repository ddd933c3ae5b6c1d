"""The objectives of sepnas. To add one, define it here and list it in ``OBJECTIVES``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from statistics import fmean
from types import MappingProxyType

from sepnas.errors import SpecError
from sepnas.objectives.objective import Answers, Objective, SimulatedCosts
from sepnas.objectives.quantity import BYTES, JOULES, RATE, SECONDS, SHARE


def _accuracy_one_lost(answers: Answers) -> float:
    """The mean accuracy over each single lost device, except one that alone has the classifier."""
    return fmean(answers.accuracy(lost=(rank,)) for rank in answers.losable)


ACCURACY = Objective(
    name="accuracy",
    label="accuracy",
    heading="supernet\naccuracy",
    quantity=SHARE,
    direction="maximize",
    bound_help="Least validation accuracy",
    evaluated=lambda answers: answers.accuracy(),
    short="accuracy",
    shown=True,
    drop=0,
)
ACCURACY_ONE_LOST = Objective(
    name="accuracy_one_lost",
    label="accuracy with one device lost",
    heading="one\nlost",
    quantity=SHARE,
    direction="maximize",
    bound_help="Least accuracy with one device lost, where the space has it for an objective",
    evaluated=_accuracy_one_lost,
    loses_devices=True,
    short="accuracy-one-lost",
    shown=True,
    drop=1,
)
LATENCY_S = Objective(
    name="latency_s",
    label="latency",
    heading="latency",
    quantity=SECONDS,
    direction="minimize",
    bound_help="Longest latency, as simulated",
    simulated=lambda simulation: simulation.latency_s,
    short="latency",
    shown=True,
    drop=0,
)
MAKESPAN_S = Objective(
    name="makespan_s",
    label="makespan",
    heading="makespan",
    quantity=SECONDS,
    direction="minimize",
    bound_help="Longest time until the last device has finished",
    simulated=lambda simulation: simulation.makespan_s,
)
PAYLOAD_BYTES = Objective(
    name="payload_bytes",
    label="payload",
    heading="payload,\nbytes",
    quantity=BYTES,
    direction="minimize",
    bound_help="Most payload of one inference",
    simulated=lambda simulation: simulation.payload_bytes,
    short="bytes",
    shown=True,
    of_cluster=False,
    cell="{:,.0f}".format,
    drop=0,
)
WIRE_BYTES = Objective(
    name="wire_bytes",
    label="payload and headers",
    heading="wire,\nbytes",
    quantity=BYTES,
    direction="minimize",
    bound_help="Most payload and headers of one inference",
    simulated=lambda simulation: simulation.wire_bytes,
    of_cluster=False,
    cell="{:,.0f}".format,
)
TOTAL_BYTES = Objective(
    name="total_bytes",
    label="total payload",
    heading="total,\nbytes",
    quantity=BYTES,
    direction="minimize",
    bound_help="Most payload of one inference, input and output included",
    simulated=lambda simulation: simulation.total_bytes,
    shown=True,
    of_cluster=False,
    between="of client and devices",
    cell="{:,.0f}".format,
    drop=5,
)
MEMORY_BYTES = Objective(
    name="memory_bytes",
    label="memory",
    heading="memory",
    quantity=BYTES,
    direction="minimize",
    bound_help="Most memory of the fullest device",
    simulated=lambda simulation: max(simulation.peak_memory_bytes),
    short="memory",
    shown=True,
    drop=4,
)
ENERGY_J = Objective(
    name="energy_j",
    label="energy",
    heading="energy",
    quantity=JOULES,
    direction="minimize",
    bound_help="Most energy of one inference, all devices",
    simulated=lambda simulation: sum(simulation.energy_j),
    short="energy",
    shown=True,
    unknown=0.0,
    needs_of_devices="power",
)
WORST_DEVICE_ENERGY_J = Objective(
    name="worst_device_energy_j",
    label="worst device's energy",
    heading="worst\nenergy",
    quantity=JOULES,
    direction="minimize",
    bound_help="Most energy of any one device for one inference",
    simulated=lambda simulation: max(simulation.energy_j),
    unknown=0.0,
    needs_of_devices="power",
)

THROUGHPUT_PER_S = Objective(
    name="throughput_per_s",
    label="throughput",
    heading="throughput",
    quantity=RATE,
    direction="maximize",
    bound_help="Least answers a second, with several requests in flight",
    streamed=lambda stream: stream.throughput_per_s,
    short="throughput",
    shown=True,
    drop=1,
)

OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        known.name: known
        for known in (
            ACCURACY,
            ACCURACY_ONE_LOST,
            LATENCY_S,
            MAKESPAN_S,
            PAYLOAD_BYTES,
            WIRE_BYTES,
            TOTAL_BYTES,
            MEMORY_BYTES,
            ENERGY_J,
            WORST_DEVICE_ENERGY_J,
        )
    }
)
"""Those of a search's candidates, by name, in the order of columns and options."""

PLAN_OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {known.name: known for known in (LATENCY_S, THROUGHPUT_PER_S, *OBJECTIVES.values()) if known.evaluated is None}
)
"""Those of a plan, which needs no images: what is simulated or streamed."""

_SIMULATED = tuple((known.name, known.simulated) for known in OBJECTIVES.values() if known.simulated is not None)


def find_objective(name: str) -> Objective:
    """The objective of this name; raises :class:`SpecError` that lists all names."""
    if name not in OBJECTIVES:
        raise SpecError(f"unknown objective {name!r}; allowed: {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


def costs_of(simulation: SimulatedCosts) -> dict[str, float]:
    """The value of every simulated objective, by name."""
    return {name: simulated(simulation) for name, simulated in _SIMULATED}


def evaluate_answers(answers: Answers, names: Iterable[str]) -> dict[str, float]:
    """The values of the evaluated objectives among ``names``, by name."""
    chosen = (OBJECTIVES[name] for name in names)
    return {known.name: known.evaluated(answers) for known in chosen if known.evaluated is not None}


def names_losing_devices(names: Iterable[str]) -> list[str]:
    """The objectives among ``names`` that are evaluated with lost devices."""
    return [name for name in names if OBJECTIVES[name].loses_devices]


def shown_objectives(candidates: Iterable[Mapping[str, float]], asked: Collection[str] = ()) -> list[Objective]:
    """The objectives with a column: shown by default or ``asked`` for, and known for at least one candidate."""
    numbers = list(candidates)
    return [
        known
        for known in OBJECTIVES.values()
        if (known.shown or known.name in asked) and any(known.known_value(each) is not None for each in numbers)
    ]


def is_evaluated(name: str) -> bool:
    """Whether an objective needs validation images; the others are simulated."""
    return OBJECTIVES[name].evaluated is not None
