"""Exports an imported network by plans of its graph: for each device its weights, and the graphs of its parts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from sepnas.deploy.certificates import DEFAULT_VALIDITY_DAYS
from sepnas.deploy.export import check_options, engine_kinds, silent, writing
from sepnas.deploy.services import Service
from sepnas.deploy.shard_writer import NamedPlan
from sepnas.deploy.writer import DeploymentWriter, Progress
from sepnas.deployment.manifest import Manifest, OnMissing
from sepnas.deployment.network_facts import ImageInput, InputFacts, NetworkFacts, OutputFacts
from sepnas.deployment.plans import check_names
from sepnas.errors import DeploymentError, SpecError
from sepnas.nets.partitioned import PartitionedNetwork, load_partitioned
from sepnas.nets.planned import lookup_of, run_plan
from sepnas.options import option
from sepnas.partition.graph import Graph
from sepnas.plan.data import ShapeData
from sepnas.plan.document import load_plan
from sepnas.plan.plan import Plan
from sepnas.plan.schedule import schedule
from sepnas.plan.steps import Send
from sepnas.plan.wire import UNCONVERTED
from sepnas.spec.document import short
from sepnas.spec.hosts import Hosts

TOLERANCE = 1e-4
"""Largest error of a plan against the whole network, relative to the largest value."""


def export_graph(
    network: PartitionedNetwork,
    out_dir: str | os.PathLike[str],
    plans: Mapping[str, Plan],
    *,
    name: str,
    hosts: Hosts | None = None,
    force: bool = False,
    engines: Sequence[str] | None = None,
    on_missing: OnMissing = "strict",
    services: Sequence[Service] = (),
    progress: Progress | None = None,
    validity_days: float = DEFAULT_VALIDITY_DAYS,
) -> Manifest:
    """Cut a traced network by ``plans``, the first of which is the default one, and write the deployment ``out_dir``.

    Each plan is executed once on noise, with all messages in fp32, and compared with the network as a whole.

    Raises:
        SpecError: no plan, plans for different numbers of devices, or invalid names and numbers.
        DeploymentError: ``out_dir`` exists and may not be replaced, or a plan does not compute the network.
        StorageError: ``out_dir`` cannot be written; nothing is left behind.
    """
    counts = {plan.num_devices for plan in plans.values()}
    if len(counts) != 1:
        raise SpecError(f"export: the plans of a deployment are for one number of devices, got {sorted(counts)}")
    check_names(plans)
    check_options(name, validity_days, on_missing)
    chosen = engine_kinds(engines)
    if not all(kind.exact for kind in chosen):
        raise SpecError("export: parts of an imported network have no int8 graphs; choose an exact engine")
    for rank in range(counts.pop() if hosts else 0):
        assert hosts is not None
        hosts.address(rank)
    for key, plan in plans.items():
        _check_computes(network, key, plan)
    with writing(Path(out_dir), force) as folder:
        named = [NamedPlan(key, plan, network) for key, plan in plans.items()]
        writer = DeploymentWriter(
            network, named, folder, name, validity_days, progress or silent, chosen, tuple(services)
        )
        return writer.write(graph_facts(network.graph), hosts, on_missing)


def export_imported(
    folder: Path, out_dir: str | os.PathLike[str], given: Mapping[str, object], *, name: str | None, **options: Any
) -> Manifest:
    """:func:`export_graph` of an imported network's folder, by plans or their files; raises :class:`SpecError`."""
    check_names(given)
    if not given:
        raise SpecError(
            f"export: an imported network is cut by a plan: `sepnas partition {folder} --cluster FILE` makes one; "
            + option("give it as --plan plan.json", "give it as `plan`")
        )
    plans = {key: _plan(key, each) for key, each in given.items()}
    return export_graph(load_partitioned(folder), out_dir, plans, name=name or folder.resolve().name, **options)


def _plan(name: str, given: object) -> Plan:
    if isinstance(given, Plan):
        return given
    if isinstance(given, str | os.PathLike):
        return load_plan(given)
    raise SpecError(f"export: plan '{name}' of an imported network must be a plan or its file, got {short(given)}")


@torch.no_grad()
def _check_computes(network: PartitionedNetwork, name: str, plan: Plan) -> None:
    graph, generator = network.graph, torch.Generator().manual_seed(0)
    inputs = {each: torch.randn(graph.tensors[each].dims, generator=generator) for each in graph.inputs}
    whole = network(*inputs.values())
    wanted: dict[str, Tensor] = whole if isinstance(whole, dict) else {graph.outputs[0].name: whole}
    found = run_plan(schedule(_unrounded(plan)), lookup_of(network), inputs)
    if found.keys() != wanted.keys():
        raise DeploymentError(
            f"plan '{name}' makes {', '.join(found)}; network '{graph.name}' makes {', '.join(wanted)}"
        )
    for output, tensor in wanted.items():
        same = found[output].shape == tensor.shape
        off = (found[output] - tensor).abs().max() / tensor.abs().max().clamp(min=1e-12) if same else torch.inf
        if not off <= TOLERANCE:
            raise DeploymentError(
                f"plan '{name}' does not compute network '{graph.name}': its output '{output}' is off by "
                f"{float(off):.1e}; make it from this network (sepnas partition)"
            )


def _unrounded(plan: Plan) -> Plan:
    """The plan with all messages between devices in fp32: what is left is the split's own error."""
    programs = tuple(
        tuple(replace(step, wire=UNCONVERTED) if isinstance(step, Send) else step for step in program)
        for program in plan.programs
    )
    return replace(plan, programs=programs)


def graph_facts(graph: Graph) -> NetworkFacts:
    """The inputs and outputs of a graph, with what its traits say about images and classes.

    Raises :class:`SpecError` for traits, or numbers of inputs and outputs, that no deployment can have.
    """
    try:
        return _facts(graph)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise SpecError(f"export: network '{graph.name}': `{place}`: {problem['msg']}") from None


def _facts(graph: Graph) -> NetworkFacts:
    classes = graph.traits.classes
    return NetworkFacts(
        inputs={name: InputFacts(shape=_shape(graph, name), image=_image(graph, name)) for name in graph.inputs},
        outputs={
            output.name: OutputFacts(
                shape=_shape(graph, output.tensor),
                classes=classes
                if len(classes) > 1 and graph.tensors[output.tensor].dims == (1, len(classes))
                else None,
            )
            for output in graph.outputs
        },
    )


def _shape(graph: Graph, tensor: str) -> ShapeData:
    """The shape of one sample."""
    found = graph.tensors[tensor]
    return ShapeData(axes=found.axes[1:], dims=found.dims[1:])


def _image(graph: Graph, name: str) -> ImageInput | None:
    """The image that an input is, prepared as the network's configuration says."""
    if name != graph.image_input:
        return None
    traits, (_, channels, height, width) = graph.traits, graph.tensors[name].dims
    return ImageInput(
        channels=channels, height=height, width=width, mean=traits.mean, std=traits.std, resize=traits.resize,
        preparation=traits.preparation(height, width),
    )  # fmt: skip
