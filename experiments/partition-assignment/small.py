"""Small random networks and clusters, on which every assignment can be priced."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from itertools import product
from typing import Any

from sepnas.assign.goal import Goal, find_plan_objective
from sepnas.assign.mixing import Mixer
from sepnas.assign.search import AssignmentSearch
from sepnas.partition.graph import Graph, GraphNode, GraphOutput, GraphTensor
from sepnas.plan.kinds.kind import OperatorUse
from sepnas.plan.kinds.registry import GRAPH_OPERATORS
from sepnas.plan.wire import UNCONVERTED
from sepnas.spec.cluster import Cluster, Power, uniform_cluster

MAX_ASSIGNMENTS = 1500
MIXED = 5
"""Candidates whose layouts are mixed, of which no split is one for each kind of device."""
EQUAL = 1 + 1e-9
_AXES = {1: "O", 2: "NC", 4: "NCHW"}


class _Builder:
    def __init__(self, channels: int, side: int) -> None:
        self.tensors = {"image": GraphTensor(axes="NCHW", dims=(1, channels, side, side))}
        self.nodes: list[GraphNode] = []
        self.weights: list[str] = []
        self.last = "image"

    def weight(self, *dims: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(name)
        self.tensors[name] = GraphTensor(axes="OIHW"[: len(dims)], dims=dims)
        return name

    def add(self, operator: str, inputs: Mapping[str, str], **attributes: Any) -> str:
        name = f"{operator}{len(self.nodes)}"
        use = OperatorUse(attributes, {role: self.tensors[each].dims for role, each in inputs.items()})
        dims = GRAPH_OPERATORS[operator].output(use)
        self.tensors[name] = GraphTensor(axes=_AXES[len(dims)], dims=dims)
        self.nodes.append(
            GraphNode(name=name, operator=operator, inputs=dict(inputs), outputs=(name,), attributes=attributes)
        )
        self.last = name
        return name

    def conv(self, outputs: int, kernel: int, stride: int = 1) -> str:
        weight = self.weight(outputs, self.tensors[self.last].dims[1], kernel, kernel)
        padding = (kernel // 2, kernel // 2)
        return self.add("conv", {"input": self.last, "weight": weight}, padding=padding, stride=(stride, stride))

    def head(self, classes: int) -> None:
        self.add("mean", {"self": self.last}, dim=(2, 3), keepdim=False)
        weight = self.weight(classes, self.tensors[self.last].dims[1])
        self.add("linear", {"input": self.last, "weight": weight})


def network(seed: int) -> Graph:
    """Two or three layers of random sizes, perhaps a residual or a pooling, perhaps a classifier."""
    draw = random.Random(seed)
    made = _Builder(draw.randint(1, 4), draw.choice((8, 12, 16)))
    made.conv(draw.randint(4, 16), draw.choice((1, 3, 5)))
    kind = draw.choice(("chain", "residual", "pool", "branches"))
    before, channels = made.last, made.tensors[made.last].dims[1]
    if kind == "pool":
        made.add("max_pool2d", {"self": made.last}, kernel_size=(2, 2), stride=(2, 2), padding=(0, 0))
        made.conv(draw.randint(4, 16), 3)
    elif kind == "chain":
        made.conv(draw.randint(4, 24), 3, draw.choice((1, 2)))
        made.conv(draw.randint(4, 16), draw.choice((1, 3)))
    else:
        left = made.conv(channels, 3)
        if kind == "branches":
            made.last = before
            before = made.conv(channels, 1)
        made.add("add", {"self": left, "other": before})
    if draw.random() < 0.5:
        made.head(draw.randint(2, 8))
    return Graph(
        name=f"small{seed}", source="random", inputs=("image",), outputs=(GraphOutput(name="y", tensor=made.last),),
        nodes=tuple(made.nodes), weights=tuple(made.weights), tensors=made.tensors,
    )  # fmt: skip


def cluster(seed: int) -> Cluster:
    """Two or three devices, equal or up to four times as fast as each other, on links of random speed."""
    draw = random.Random(f"cluster {seed}")
    count, equal = draw.choice((2, 3)), draw.random() < 0.3
    made = uniform_cluster(
        count, bandwidth_bytes_per_s=10 ** draw.uniform(5.5, 7.5), latency_s=10 ** draw.uniform(-5, -3)
    )
    speed = 10 ** draw.uniform(7, 8.5)
    devices = tuple(
        each.model_copy(
            update={
                "flops_per_s": speed if equal else speed * draw.choice((1.0, 1.5, 2.0, 4.0)),
                "layer_overhead_s": 2e-5,
                "power": Power(idle_w=1.0, compute_w=draw.uniform(1, 4), energy_per_byte_j=1e-8),
            }
        )
        for each in made.devices
    )
    return made.model_copy(update={"devices": devices})


def compared(seed: int, objective: str) -> dict[str, Any] | None:
    """The search against the optimum over all assignments of the same layouts; None if there are too many of them."""
    graph, where, known = network(seed), cluster(seed), find_plan_objective(objective)
    goal = Goal(known)
    search = AssignmentSearch(graph, where, goal, UNCONVERTED)
    splits = sorted(search.splits(), key=lambda each: goal.of_estimate(each.estimate))
    candidates = search.to_mix(search.singles(), splits)[:MIXED]
    every = Mixer(search.estimator, candidates, [[place] for place in range(len(graph.nodes))])
    if every.num_mixtures > MAX_ASSIGNMENTS:
        return None
    mixer = Mixer(search.estimator, candidates)
    estimated = search.mixture(mixer, mixer.best(goal.of_estimate, 48)[0].chosen)
    found = min(search.improved(mixer), key=goal.of)
    whole = min([*search.run(), found], key=goal.of)
    choices = product(*(range(len(each)) for each in every.choices))
    exact = [made for chosen in choices if (made := search.mixture(every, chosen)) is not None]
    optimum = min(exact, key=goal.of)

    def ratio(made: Any) -> float:
        best, value = optimum.costs[known.name], made.costs[known.name]
        if known.maximised:
            best, value = value, best
        return 1.0 if best == value else math.inf if best == 0 else value / best

    return {
        "seed": seed, "objective": objective, "devices": where.num_devices, "operators": len(graph.nodes),
        "assignments": len(exact), "ratio_of_dynamic_programming": ratio(estimated), "ratio": ratio(found),
        "ratio_of_whole_search": ratio(whole),
    }  # fmt: skip
