"""Separates an imported network into a new folder: graph, weights, the separation, and the plan of its devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sepnas.errors import SpecError
from sepnas.importing.choose_tiles import choose_tiles
from sepnas.importing.folder import new_folder
from sepnas.importing.run import Progress
from sepnas.importing.separator import Separator
from sepnas.nets.crossings import crossings_of
from sepnas.nets.graph import GraphNetwork, load_graph_network
from sepnas.options import option
from sepnas.partition.graph import GRAPH_NAME, WEIGHTS_NAME
from sepnas.plan.document import save_plan
from sepnas.plan.plan import Plan
from sepnas.plan.wire import WIRE_FORMATS
from sepnas.separation.channels import HowComputed
from sepnas.separation.demands import demands_of
from sepnas.separation.document import PLAN_NAME, SEPARATION_NAME, Separation, bytes_of, is_separated
from sepnas.separation.network import SeparatedGraph
from sepnas.separation.separate import separation_of
from sepnas.separation.spaces import Placement, spaces_of
from sepnas.separation.thinning import AUTO, MESSAGE_COST_BYTES
from sepnas.separation.tiled_layers import AUTO_TILES, NO_TILES
from sepnas.spec.cluster import Cluster
from sepnas.spec.document import short

BESIDE = frozenset((SEPARATION_NAME, PLAN_NAME))
"""The files of a separated network beside those of an imported one."""
_STEPS = ("following channels", "measuring activations", "grouping channels", "thinning", "fitting weights", "writing")


@dataclass(frozen=True)
class SeparationResult:
    """A network that was separated, before any fine-tuning.

    ``payload_bytes`` are those between devices for one sample, ``exact_bytes`` those of all channels in fp32, and
    ``fixed_bytes`` those of what is always sent. ``within`` is the share of importance within groups.
    ``read_out_nodes`` are operators that the read-out device computes whole, ``repeated_layers`` those with too few
    channels, which each device computes. ``deviation`` is the largest relative difference from the original's outputs
    on noise, in one process.
    """

    separation: Separation
    separated: SeparatedGraph
    plan: Plan
    payload_bytes: int
    exact_bytes: int
    fixed_bytes: int
    within: float
    points: int
    silent_points: int
    read_out_nodes: tuple[str, ...]
    repeated_layers: tuple[str, ...]
    deviation: float


def separate_network(
    folder: Path,
    out: Path,
    cluster: Cluster,
    devices: int,
    *,
    budget: float = 1.0,
    exchange_points: int | None = None,
    tiles_until: str = NO_TILES,
    wire: str = AUTO,
    read_out: int = 0,
    samples: Sequence[tuple[Tensor, ...]] = (),
    message_cost_bytes: float = MESSAGE_COST_BYTES,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> SeparationResult:
    """Separate the network in ``folder`` over the first ``devices`` of a cluster, and write the folder ``out``.

    ``budget`` is a share of the exact split's bytes in fp32; with 1 all that matters is sent, at ``exchange_points`` at
    most. The layers up to the tensor ``tiles_until`` stay exact, in tiles; ``auto`` chooses it for the cluster, with
    ``none`` there are none. ``wire`` is the format of all messages, or ``auto`` for the best of each. On ``samples``,
    inputs of the network ``(B, ...)``, activations and the costs of errors are measured; weights that read estimates
    are fitted to what devices have in fact.

    Raises:
        SpecError: a network without weights, or that is separated already; an unknown format; a budget that does not
            suffice for what must be sent.
        PlanError: too few channels for so many devices.
        StorageError: ``out`` exists, or cannot be written; nothing is left behind.
    """
    show = progress or (lambda done, total, what: None)
    check_separable(folder, wire, read_out, devices)
    with new_folder(out, force, BESIDE) as made:
        _told(show, 0)
        speeds = [each.flops_per_s for each in cluster.devices[:devices]]
        of = Separator(load_graph_network(folder), speeds, read_out=read_out, samples=samples, seed=seed)
        tiles = None if tiles_until in (AUTO_TILES, NO_TILES) else of.tiles(tiles_until)
        _told(show, 1)
        statistics = of.statistics
        _told(show, 2)
        limits = of.limits(budget, exchange_points, wire, message_cost_bytes)
        if tiles_until == AUTO_TILES:
            tiles = choose_tiles(of, limits, cluster)
        placement = of.placement(tiles)
        _told(show, 3)
        separation, thinned = separation_of(placement, of.arrays, statistics, limits)
        _told(show, 4)
        separated = of.network(separation, thinned)
        plan = separated.plan()
        weights = of.fitted(separated, of.weights_of(separated), crossings_of(separated.graph, plan))
        _told(show, 5)
        result = _result(of, placement, separation, separated, plan, weights)
        _write(made, result, weights)
    show(len(_STEPS), len(_STEPS), "done")
    return result


def _told(show: Progress, step: int) -> None:
    show(step, len(_STEPS), _STEPS[step])


def check_separable(folder: Path, wire: str, read_out: int, devices: int) -> None:
    if wire not in (AUTO, *WIRE_FORMATS):
        raise SpecError(f"{option('--wire', 'wire=')} {short(wire)}: allowed are {AUTO}, {', '.join(WIRE_FORMATS)}")
    if not 0 <= read_out < devices:
        raise SpecError(f"{option('--read-out', 'read_out=')} {read_out}: must be one of 0..{devices - 1}")
    if is_separated(folder):
        raise SpecError(f"{folder}: is separated already; separate the network that it was made from")


def _result(
    of: Separator,
    placement: Placement,
    separation: Separation,
    separated: SeparatedGraph,
    plan: Plan,
    weights: Mapping[str, Tensor],
) -> SeparationResult:
    channels, deviation = of.channels, _deviation(of.original, GraphNetwork(separated.graph, weights))
    demands = demands_of(placement)
    fixed, open_ = {(d.tensor, d.device) for d in demands if d.is_fixed}, {d.tensor for d in demands if not d.is_fixed}
    grouped = {space.name for space in of.spaces}
    return SeparationResult(
        separation=separation,
        separated=separated,
        plan=plan,
        payload_bytes=separation.payload_bytes(placement),
        exact_bytes=of.exact_bytes,
        fixed_bytes=sum(
            bytes_of(each, placement)
            for each in separation.crossings if (each.tensor, each.destination) in fixed
        ),
        within=of.grouping(placement.tiles).within,
        points=len(open_),
        silent_points=len(open_ - separation.exchange_points(placement)),
        read_out_nodes=tuple(n.name for n in channels.graph.nodes if channels.ways[n.name] is HowComputed.READ_OUT),
        repeated_layers=tuple(space.name for space in spaces_of(channels) if space.name not in grouped),
        deviation=deviation,
    )  # fmt: skip


@torch.no_grad()
def _deviation(original: GraphNetwork, separated: GraphNetwork) -> float:
    """The largest difference of an output from the original's on noise, relative to the output's largest value."""
    generator, graph = torch.Generator().manual_seed(0), original.graph
    inputs = [torch.randn(graph.tensors[name].dims, generator=generator) for name in graph.inputs]
    found, wanted = separated.eval()(*inputs), original.eval()(*inputs)
    pairs = zip(found.values(), wanted.values(), strict=True) if isinstance(found, dict) else [(found, wanted)]
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)


def _write(folder: Path, result: SeparationResult, weights: Mapping[str, Tensor]) -> None:
    save_file({name: each.clone(memory_format=torch.contiguous_format) for name, each in weights.items()},
              folder / WEIGHTS_NAME)  # fmt: skip
    (folder / WEIGHTS_NAME).chmod(0o644)
    result.separated.graph.save(folder / GRAPH_NAME)
    result.separation.save(folder / SEPARATION_NAME)
    save_plan(result.plan, folder / PLAN_NAME)
