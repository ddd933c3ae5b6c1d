"""Every network, scheme and number of boards, priced by the simulator. Torch is not needed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from boards import LINKS, PI_3, PI_4, SPEEDS, alone, cluster
from cells import Cells
from limits import within
from published import PUBLISHED

from sepnas.cost.simulator import simulate
from sepnas.cost.stream import simulate_stream
from sepnas.partition.graph import Graph
from sepnas.partition.schemes.registry import SCHEMES, on_one_device, partition
from sepnas.plan.plan import Plan
from sepnas.plan.steps import CLIENT, Send
from sepnas.plan.wire import PIXELS
from sepnas.spec.cluster import Cluster

Row = dict[str, Any]
COUNTS = (1, 2, 4, 6, 8, 10)
WIRES = ("fp32", "fp16", "int8")
SPEEDS_COMPARED = {"eager": "", "1-thread": "_tuned_kernels"}
"""The speeds at which published gains are compared, and what is added to the names of their measures."""
TABLE_BOARD = PI_4


def counts_of(network: str) -> tuple[int, ...]:
    """The numbers of boards of the table, and those that something is published for."""
    return tuple(sorted({*COUNTS, *(each.devices for each in PUBLISHED if each.network == network)}))


def predicted_rows(cells: Cells, graphs: dict[str, Graph], limit_s: float, deadline: float) -> list[Row]:
    """A row for each network, number of boards, scheme, board, link, speed and wire format that can be."""
    rows: list[Row] = []
    for name, graph in graphs.items():
        for count in counts_of(name):
            for scheme in SCHEMES if count > 1 else ("one-device",):
                if time.monotonic() > deadline:
                    print(f"time is up at {name}, {count} boards, {scheme}; run it again")
                    return rows
                key = f"{name} {count} {scheme} {fingerprint()}"
                cell = cells.get(key, partial(_cell, graph, name, scheme, count, limit_s))
                rows += [{"network": name, "devices": count, "scheme": scheme, **row} for row in cell["rows"]]
    return rows


def fingerprint() -> str:
    """What the boards and links are: rows of other presets are priced anew."""
    facts = [cluster(kind, 2, link, speed).to_data() for kind in (PI_3, PI_4) for link in LINKS for speed in SPEEDS]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def _cell(graph: Graph, network: str, scheme: str, count: int, limit_s: float) -> Row:
    begun = time.process_time()
    try:
        with within(limit_s):
            plan = with_pixels(plan_of(graph, scheme, count))
            rows = list(_priced(plan, network, scheme))
    except Exception as error:  # a scheme that does not fit a network is an answer
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        print(f"{network} {count} {scheme}: {reason}", flush=True)
        return {"rows": [], "reason": reason}
    spent_s = round(time.process_time() - begun, 2)
    print(f"{network} {count} {scheme}: {plan.payload_bytes():,} bytes, {spent_s} s", flush=True)
    return {"rows": rows, "seconds": spent_s}


def plan_of(graph: Graph, scheme: str, count: int) -> Plan:
    """Equal shares for equal boards."""
    return on_one_device(graph, 0, 1) if count == 1 else partition(graph, scheme, [1.0] * count)


def with_pixels(plan: Plan) -> Plan:
    """The plan whose client sends its images, or clips, in bytes."""
    ports = tuple(
        replace(port, pieces=tuple(replace(piece, wire=PIXELS) for piece in port.pieces)) for port in plan.inputs
    )
    return replace(plan, inputs=ports)


def with_wire(plan: Plan, wire: str) -> Plan:
    """The plan with its messages between devices in another format."""
    programs = tuple(
        tuple(replace(step, wire=wire) if isinstance(step, Send) and step.to != CLIENT else step for step in program)
        for program in plan.programs
    )
    return replace(plan, programs=programs)


def _priced(plan: Plan, network: str, scheme: str) -> Iterator[Row]:
    for kind in boards_of(network, plan.num_devices):
        for speed in SPEEDS:
            facts = {"board": kind, "speed": speed}
            if plan.num_devices == 1:
                yield facts | {"link": "none", "wire": "fp32"} | costs(plan, alone(kind, speed))
                continue
            for link in LINKS:
                for wire in WIRES:
                    where = cluster(kind, plan.num_devices, link, speed)
                    found = costs(with_wire(plan, wire), where, pipelined="pipeline" in scheme)
                    yield facts | {"link": link, "wire": wire} | found


def boards_of(network: str, count: int) -> tuple[str, ...]:
    """The boards of the table, and those that something is published for."""
    others = (each.board for each in PUBLISHED if each.network == network and count in (1, each.devices))
    return tuple(dict.fromkeys((TABLE_BOARD, *others)))


def costs(plan: Plan, where: Cluster, pipelined: bool = False) -> Row:
    """``interval_s`` is the time between two answers; one request at a time, except in pipelines."""
    found = simulate(plan, where)
    interval_s = found.latency_s
    if pipelined:
        interval_s = 1 / simulate_stream(plan, where, in_flight=2 * plan.num_devices).throughput_per_s
    return {
        "latency_s": found.latency_s, "interval_s": interval_s, "payload_bytes": found.payload_bytes,
        "peak_memory_bytes": max(found.peak_memory_bytes), "compute_s": max(found.compute_s),
    }  # fmt: skip
