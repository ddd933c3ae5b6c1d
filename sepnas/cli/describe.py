"""``sepnas schema``, ``describe`` and ``simulate``: look at a description without running anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from sepnas.cli.common import (
    FILE,
    MAX_COUNT,
    MAX_DEVICES,
    cluster_to_predict_with,
    number,
    print_json,
    say,
    seconds,
    warn,
)
from sepnas.cli.tables import DataColumn, DataTable, print_table, shorten_names, text_column
from sepnas.cli.timelines import Out, TimelineFormat, refuse_text_file, show_timelines
from sepnas.cost.floor import floor_s
from sepnas.cost.jitter import has_jitter, latency_percentile
from sepnas.cost.memory import peak_memory_bytes
from sepnas.cost.simulator import Simulation, simulate
from sepnas.cost.stream import simulate_stream
from sepnas.cost.timeline import predicted_timeline
from sepnas.errors import SpecError
from sepnas.plan.build import build_plan
from sepnas.plan.liveness import devices_used
from sepnas.plan.lower import lower
from sepnas.plan.network import count_macs, count_parameters, device_layers
from sepnas.plan.steps import Plan
from sepnas.report.units import format_count, format_idle
from sepnas.spec.architecture import Architecture, named_architecture, named_policy
from sepnas.spec.cluster import Cluster, uniform_cluster
from sepnas.spec.document import FILE_SUFFIXES, Document
from sepnas.spec.patterns import NAMED_POLICIES
from sepnas.spec.policy import TransmissionPolicy
from sepnas.spec.recognise import recognise
from sepnas.spec.wire import WIRE_FORMATS, Scale

DOCUMENTS = {
    "architecture": "sepnas.spec.architecture:Architecture",
    "cluster": "sepnas.spec.cluster:Cluster",
    "data": "sepnas.spec.dataset:DataFacts",
    "emulation": "sepnas.spec.emulation:Emulation",
    "evaluation": "sepnas.train.evaluation:Evaluation",
    "front": "sepnas.search.folder:Front",
    "hosts": "sepnas.spec.hosts:Hosts",
    "machines": "sepnas.search.trials.machines:Machines",
    "manifest": "sepnas.spec.manifest:Manifest",
    "policy": "sepnas.spec.policy:TransmissionPolicy",
    "presets": "sepnas.spec.presets:Presets",
    "recipe": "sepnas.train.recipe:Recipe",
    "renewal": "sepnas.spec.renewal:Renewal",
    "search-run": "sepnas.search.folder:SearchRun",
    "search-space": "sepnas.spec.space:SearchSpace",
    "shard-manifest": "sepnas.spec.manifest:ShardManifest",
    "trace": "sepnas.runtime.trace:Trace",
    "trial-kit": "sepnas.search.trials.kit:Kit",
}
"""Where each document lives; imported when it is asked for."""

SCHEMAS = {**DOCUMENTS, "result": "sepnas.spec.result:ResultFile"}
"""All files that have a schema; the head of a result file is another than that of the documents."""

NameOrFile = Annotated[str, typer.Argument(help="A name such as resnext56_4x16d, or an architecture file.")]
Devices = Annotated[
    int | None, typer.Option("--devices", "-n", min=1, max=MAX_DEVICES, help="Separate it over this many devices.")
]
Policy = Annotated[str | None, typer.Option(help=f"{', '.join(NAMED_POLICIES)}, or a policy file [all-to-all].")]
Classes = Annotated[int | None, typer.Option(min=2, help="Number of classes [100].")]
ImageSize = Annotated[int | None, typer.Option(min=4, help="Side of the images in pixels [32].")]
Wire = Annotated[str | None, typer.Option(help="Write all messages in fp32, fp16, int8 or int4 [as the policy says].")]
LearnedScales = Annotated[
    bool | None,
    typer.Option(
        "--learned-scales/--own-scales",
        help="int8 and int4: learn the step between levels, or send one with each message [as the policy says].",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def schema(name: Annotated[str, typer.Argument(help=f"One of: {', '.join(sorted(SCHEMAS))}.")]) -> None:
    """Print the JSON Schema of a file that sepnas reads or writes.

    The same schema holds for YAML. An editor that knows it completes and checks the file while it is written.

    Example: `sepnas schema cluster > cluster.schema.json`
    """
    print_json(_class_of(name, SCHEMAS).model_json_schema())


def document(name: str) -> type[Document]:
    """The class of a document; :class:`SpecError` says which there are."""
    found: type[Document] = _class_of(name, DOCUMENTS)
    return found


def _class_of(name: str, places: Mapping[str, str]) -> Any:
    if name not in places:
        raise SpecError(f"unknown document {name!r}; allowed: {', '.join(sorted(places))}")
    module, _, kind = places[name].partition(":")
    return getattr(import_module(module), kind)


def read_policy(text: str, network: Architecture) -> TransmissionPolicy:
    """A named policy for this network, or the content of a policy file; :class:`SpecError` when it does not fit."""
    if Path(text).suffix not in FILE_SUFFIXES:
        return named_policy(text, network.num_devices, network.depth)
    policy = TransmissionPolicy.load(text)
    policy.check(network.num_devices, network.blocks_per_stage, text)
    return policy


def read_architecture(
    name: str,
    devices: int | None = None,
    policy: str | None = None,
    classes: int | None = None,
    image_size: int | None = None,
    wire: str | None = None,
    learned_scales: bool | None = None,
) -> Architecture:
    """The architecture of a name or of a file, its messages in another format; what contradicts the file is refused."""
    found = _read_architecture(name, devices, policy, classes, image_size)
    return with_messages(found, wire, learned_scales)


def _read_architecture(
    name: str, devices: int | None, policy: str | None, classes: int | None, image_size: int | None
) -> Architecture:
    known = recognise(Path(name))
    if known and known[0] != "file":
        inside = f"; name {Path(name) / 'architecture.json'}" if known[0] == "run" else ""
        raise SpecError(f"architecture: {name} is {known[1]}, not an architecture's file or name{inside}")
    if Path(name).suffix in FILE_SUFFIXES:
        architecture = Architecture.load(name)
        _refuse_contradictions(name, architecture, devices, classes, image_size)
        if policy is None:
            return architecture
        return architecture.with_policy(read_policy(policy, architecture))
    plain = named_architecture(name, devices or 1, "none", classes or 100, image_size=image_size or 32)
    return plain.with_policy(read_policy("all-to-all" if policy is None else policy, plain))


def with_messages(architecture: Architecture, wire: str | None, learned_scales: bool | None) -> Architecture:
    """The same with its messages in another format, or with other scales where they are quantised."""
    if wire is not None and wire not in WIRE_FORMATS:
        raise SpecError(f"--wire {wire!r}: allowed are {', '.join(WIRE_FORMATS)}")
    if wire is None and learned_scales is None:
        return architecture
    scale: Scale | None = None if learned_scales is None else "learned" if learned_scales else "sample"
    policy = architecture.policy.written_in(wire, scale)
    if scale == "learned" and not policy.learned_scales():
        why = "no message is quantised; add --wire int8 or --wire int4"
        if not any(point.transfers for point in policy.points):
            why = f"the policy of {architecture.name!r} sends nothing but logits, which stay in fp32"
        raise SpecError(f"--learned-scales: {why}")
    return architecture.with_policy(policy)


def _refuse_contradictions(
    name: str, architecture: Architecture, devices: int | None, classes: int | None, image_size: int | None
) -> None:
    for option, wanted, found in (
        ("--devices", devices, architecture.num_devices),
        ("--classes", classes, architecture.num_classes),
        ("--image-size", image_size, architecture.image_size),
    ):
        if wanted not in (None, found):
            raise SpecError(f"{name}: the file says {found}, {option} says {wanted}; leave {option} out")


def facts(architecture: Architecture) -> dict[str, Any]:
    """What ``describe`` prints: counts of the network and of its plan."""
    everything, plan = lower(architecture), build_plan(architecture)
    ranks = range(architecture.num_devices)
    per_device = [count_macs(architecture, rank) for rank in ranks]
    # the stem is one layer of the network, computed by every device
    repeated_stems = (architecture.num_devices - 1) * device_layers(architecture, 0)[0].macs
    return {
        "name": architecture.name,
        "devices": architecture.num_devices,
        "policy": architecture.policy.name,
        "parameters": count_parameters(architecture),
        "macs": sum(per_device) - repeated_stems,
        "macs_per_device": per_device,
        "payload_bytes": plan.payload_bytes(),
        "payload_bytes_before_liveness": everything.payload_bytes(),
        "wire_bytes": plan.wire_bytes(),
        "num_transfers": len(plan.transfers()),
        "segments": plan.num_segments(),
        "devices_used": list(devices_used(plan)),
        "peak_memory_bytes": [peak_memory_bytes(plan, rank) for rank in ranks],
    }


def describe(
    name: NameOrFile,
    devices: Devices = None,
    policy: Policy = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    wire: Wire = None,
    learned_scales: LearnedScales = None,
    json_: AsJson = False,
    save: Annotated[Path | None, typer.Option(**FILE, help="Write the architecture to this file.")] = None,
) -> None:
    """Count what a network and its transmission policy cost: parameters, MACs, bytes, transfers.

    MACs and bytes are for one image. `payload_bytes` is what really crosses: transfers that cannot reach the
    answer are dropped first; `payload_bytes_before_liveness` counts them too. `devices_used` are the ranks that do any
    work that the answer needs.

    Example: `sepnas describe resnext56_4x16d --devices 4 --policy hand-made`
    """
    architecture = read_architecture(name, devices, policy, classes, image_size, wire, learned_scales)
    if save is not None:
        architecture.save(save)
    found = facts(architecture)
    if json_:
        print_json(found)
        return
    say(f"{architecture.name} on {format_count(architecture.num_devices, 'device')}, policy {found['policy']}")
    table = DataTable((text_column(""), DataColumn("")), show_header=False)
    for key, value in found.items():
        if key not in ("name", "policy", "devices_used"):
            values = value if isinstance(value, list) else [value]
            table.add(key, Text("\n".join(number(each) for each in values)))
    table.add("devices_used", ", ".join(map(str, found["devices_used"])))
    print_table(table)
    if idle := format_idle(found["devices_used"], architecture.num_devices):
        warn(idle)


def simulate_command(
    name: NameOrFile,
    cluster: Annotated[Path | None, typer.Option(help="A cluster file [equal boards on 100 Mbit/s].", **FILE)] = None,
    devices: Devices = None,
    policy: Policy = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    wire: Wire = None,
    learned_scales: LearnedScales = None,
    batch: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Images in one request.")] = 1,
    percentile: Annotated[
        float | None, typer.Option(min=0, max=100, help="Also the latency that so many percent do not exceed.")
    ] = None,
    in_flight: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, help="Also the throughput with so many requests open at once.")
    ] = None,
    json_: AsJson = False,
    timeline: Annotated[
        TimelineFormat | None, typer.Option(help="Show who does what when. text: bars; chrome: for ui.perfetto.dev.")
    ] = None,
    out: Out = None,
) -> None:
    """Predict time, bytes, memory and energy of one inference on a cluster.

    The floor is what computing, bandwidth and latency alone would take, with messages that cost the processors nothing
    and never wait for each other: how far the answer is above it is what the exchange costs. With a percentile the
    times are drawn at random, from `jitter` of devices and `jitter_s` of links in the cluster file. `--timeline` shows
    when each device computes and waits: as bars under the table, or as JSON instead of it.

    Examples: `sepnas simulate resnext56_4x16d -n 4 --policy hand-made --cluster cluster.yaml --percentile 95
    --in-flight 4`, `sepnas simulate resnext20_4x4d -n 4 --policy hand-made --timeline chrome --out timeline.json`
    """
    refuse_text_file(timeline, out)
    if json_ and timeline is not None:
        raise typer.BadParameter("prints the time line by itself: no --timeline", param_hint="--json")
    architecture = read_architecture(name, devices, policy, classes, image_size, wire, learned_scales)
    where = cluster_to_predict_with(cluster) if cluster else uniform_cluster(architecture.num_devices)
    plan = build_plan(architecture)
    result = simulate(plan, where, batch, timeline=json_ or timeline is not None)
    times = _more_times(plan, where, result, batch, percentile, in_flight)
    if json_:
        print_json(asdict(result) | times)
        return
    if timeline in (None, "text") or out is not None:
        _print_simulation(architecture, where, result)
        _print_times(times)
        if percentile is not None and not has_jitter(where):
            say(f"cluster {where.name} has no `jitter` and no `jitter_s`: all answers take the same time")
    if timeline is not None:
        show_timelines(timeline, [predicted_timeline(plan, result, batch)], out)


def _more_times(
    plan: Plan, cluster: Cluster, result: Simulation, batch: int, percentile: float | None, in_flight: int | None
) -> dict[str, Any]:
    """The floor, and what was asked for besides."""
    times: dict[str, Any] = {"floor_s": floor_s(plan, cluster, batch)}
    times["latency_over_floor"] = result.latency_s / times["floor_s"]
    if percentile is not None:
        latency_s = latency_percentile(plan, cluster, percentile, batch=batch)
        times["percentile"] = {"percent": percentile, "latency_s": latency_s}
    if in_flight is not None:
        stream = asdict(simulate_stream(plan, cluster, in_flight=in_flight, batch=batch))
        times["stream"] = {key: value for key, value in stream.items() if key != "latencies_s"}
    return times


def _print_simulation(architecture: Architecture, cluster: Cluster, result: Simulation) -> None:
    say(
        f"{architecture.name}, policy {architecture.policy.name}, on cluster {cluster.name}: "
        f"answer after {seconds(result.latency_s)}, all done after {seconds(result.makespan_s)}, "
        f"{format_count(result.payload_bytes, 'byte')} between devices"
    )
    numbers = DataColumn("computes"), DataColumn("busy", drop=1), DataColumn("memory,\nbytes", drop=2)
    more = DataColumn("energy, J", drop=3), DataColumn("sends,\nbytes")
    table = DataTable((text_column("device", shorten=shorten_names), *numbers, *more))
    for rank in range(architecture.num_devices):
        sent = sum(link.payload_bytes for link in result.links if link.source == rank)
        table.add(
            cluster.devices[rank].name, seconds(result.compute_s[rank]), seconds(result.busy_s[rank]),
            number(result.peak_memory_bytes[rank]), f"{result.energy_j[rank]:.3g}", number(sent),
        )  # fmt: skip
    print_table(table)


def _print_times(times: Mapping[str, Any]) -> None:
    """The floor, and what was asked for besides."""
    table = DataTable((text_column(""), DataColumn("")), show_header=False)
    table.add("floor: computing, bandwidth and latency alone", seconds(times["floor_s"]))
    table.add("answer, times the floor", f"{times['latency_over_floor']:.2f}")
    if found := times.get("percentile"):
        table.add(f"{found['percent']:g}% of answers within", seconds(found["latency_s"]))
    if found := times.get("stream"):
        table.add(f"answers a second, {found['in_flight']} in flight", f"{found['throughput_per_s']:.4g}")
        table.add("their mean latency", seconds(found["latency_s"]))
    print_table(table)
