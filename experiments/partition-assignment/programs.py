"""The integer program against dynamic programming: on small cases with a known optimum, and on branching networks."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import product
from typing import Any

from integer_program import Choice
from small import EQUAL, MAX_ASSIGNMENTS, MIXED, cluster, network

from sepnas.assign.goal import Goal, find_plan_objective
from sepnas.assign.mixing import Mixer
from sepnas.assign.search import FINALISTS, AssignmentSearch
from sepnas.partition.graph import Graph
from sepnas.plan.wire import UNCONVERTED
from sepnas.spec.cluster import Cluster

LIMIT_S = 60.0


def small(seed: int, objective: str) -> dict[str, Any] | None:
    """Both on the mixtures of a small case, all of which are priced; None if there are too many."""
    graph = network(seed)
    search = AssignmentSearch(graph, cluster(seed), Goal(find_plan_objective(objective)), UNCONVERTED)
    mixer = Mixer(search.estimator, _candidates(search)[:MIXED])
    if mixer.num_mixtures > MAX_ASSIGNMENTS:
        return None
    row = _both(search, mixer, objective, 1)
    numbers = product(*(range(len(choices)) for choices in mixer.choices))
    best = min(_value(search, mixer, each) for each in numbers)
    return {"seed": seed, "branches": any(node.operator == "add" for node in graph.nodes), **row, "optimum": best}


def large(graph: Graph, where: Cluster, objective: str) -> dict[str, Any]:
    """Both on a network of many branches, from the candidates of a search."""
    search = AssignmentSearch(graph, where, Goal(find_plan_objective(objective)), UNCONVERTED)
    mixer = Mixer(search.estimator, _candidates(search))
    return {"network": graph.name, "devices": where.num_devices, **_both(search, mixer, objective, FINALISTS)}


def _candidates(search: AssignmentSearch) -> Sequence[Any]:
    splits = sorted(search.splits(), key=lambda each: search.goal.of_estimate(each.estimate))
    return search.to_mix(search.singles(), splits)


def _both(search: AssignmentSearch, mixer: Mixer, objective: str, count: int) -> dict[str, Any]:
    """Exact values, smaller is better: the best of ``count`` labels, and the program's choice."""
    start_s = time.process_time()
    labels = mixer.best(search.goal.of_estimate, 48)[:count]
    middle_s = time.process_time()
    numbers, proved = Choice(search, mixer, objective).solved(LIMIT_S)
    end_s = time.process_time()
    return {
        "objective": objective, "units": len(mixer.choices), "layouts": sum(map(len, mixer.choices)),
        "dynamic_programming": min(_value(search, mixer, label.chosen) for label in labels),
        "integer_program": math.inf if numbers is None else _value(search, mixer, numbers), "proved": bool(proved),
        "dynamic_programming_s": round(middle_s - start_s, 3), "integer_program_s": round(end_s - middle_s, 3),
    }  # fmt: skip


def _value(search: AssignmentSearch, mixer: Mixer, numbers: Sequence[int]) -> float:
    made, objective = search.mixture(mixer, numbers), search.goal.objective
    return math.inf if made is None else objective.sort_key(made.costs[objective.name])


def summed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the small cases, by objective and with and without branches: how often each is optimal, or the better one."""
    found = []
    for key in sorted({(row["objective"], row["branches"]) for row in rows}):
        own = [row for row in rows if (row["objective"], row["branches"]) == key]
        dynamic, program, best = (
            [row[name] for row in own] for name in ("dynamic_programming", "integer_program", "optimum")
        )
        found.append({
            "objective": key[0], "branches": key[1], "cases": len(own),
            "dynamic_programming_optimal": sum(map(_equal, dynamic, best)),
            "integer_program_optimal": sum(map(_equal, program, best)),
            "integer_program_better": sum(map(_better, program, dynamic)),
            "dynamic_programming_better": sum(map(_better, dynamic, program)),
        })  # fmt: skip
    return found


def _equal(one: float, other: float) -> bool:
    return one == other or abs(one - other) <= (EQUAL - 1) * abs(other)


def _better(one: float, other: float) -> bool:
    return one < other and not _equal(one, other)
