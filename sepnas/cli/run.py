"""``sepnas worker``, ``infer`` and ``bench``: a deployment at work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import numpy as np
import typer

from sepnas.cli.common import (
    MAX_COUNT,
    MAX_THREADS,
    cluster_to_predict_with,
    number,
    path_of,
    path_to,
    print_json,
    seconds,
    warn,
)
from sepnas.cli.emulate import ShapingChoice, emulated_cluster, open_session, read_setting
from sepnas.cli.emulated_bench import print_emulated, run_bench
from sepnas.cli.quantities import deadline_s, time_s
from sepnas.cli.tables import DataColumn, DataTable, print_table, shorten_paths, text_column
from sepnas.deploy.verify import verify_client
from sepnas.errors import DataError
from sepnas.report.units import format_count
from sepnas.runtime.classes import likeliest
from sepnas.runtime.images import Images, Resize, read_images
from sepnas.runtime.log import LogFormat, LogLevel, set_up_logging
from sepnas.runtime.protocol import MAX_BATCH
from sepnas.runtime.reply import Answer
from sepnas.runtime.session import MAX_IN_FLIGHT, MAX_TRACES, Session
from sepnas.spec.listing import listed
from sepnas.spec.manifest import OnMissing

if TYPE_CHECKING:
    from sepnas.runtime.bench import BenchResult

Deployment = Annotated[
    Path, typer.Argument(parser=path_to("deployment"), help="The deployment's folder, as `sepnas export` wrote it.")
]
HostsFile = Annotated[Path | None, typer.Option("--devices", parser=path_of, help="hosts.yaml [the deployment's own].")]
Deadline = Annotated[
    float,
    typer.Option(parser=deadline_s, metavar="TIME", help="Until an answer or an error: seconds, or such as 100ms."),
]
Top = Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="How many classes to show for each image.")]
ResizeChoice = Annotated[
    Resize | None, typer.Option(help="An image of another size: refuse it, crop or stretch [as in training].")
]
OnMissingChoice = Annotated[
    OnMissing | None,
    typer.Option(help="A message is late or a device lost: an error, or an answer without it [as exported]."),
]
INFER_BATCH = 64
"""Images in one request of `sepnas infer`; the deadline is for each request."""
Likeliest: TypeAlias = list[tuple[str, float]]
_Row: TypeAlias = tuple[Path, "tuple[Likeliest, Answer] | DataError"]
WorkerEngine = Literal["torch", "onnxruntime", "onnxruntime-int8", "auto"]
HostNames = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="A name that HTTP clients may ask by, besides this machine's addresses; again for each."
    ),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="No TLS; only on this machine's own addresses.")]


def worker(
    shard: Annotated[
        Path, typer.Argument(parser=path_to("device"), help="One device's folder, such as deployment/device1.")
    ],
    listen: Annotated[str, typer.Option(help="HOST:PORT to wait on for the client and the other devices.")],
    threads: Annotated[int, typer.Option(min=1, max=MAX_THREADS, help="Threads of the engine.")] = 1,
    insecure: Insecure = False,
    engine: Annotated[
        WorkerEngine | None,
        typer.Option(
            help="What computes; auto takes the faster of torch and onnxruntime here [torch, or what is installed]."
        ),
    ] = None,
    emulate: Annotated[
        Path | None, typer.Option(parser=path_of, help="Emulation to behave by; `sepnas bench --emulate` writes them.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Answer Prometheus there, such as 127.0.0.1:9100.")
    ] = None,
    host_name: HostNames = None,
    hosts: Annotated[
        Path | None, typer.Option(parser=path_of, help="hosts.yaml with the other devices, whatever clients say.")
    ] = None,
    log_format: Annotated[
        LogFormat, typer.Option(help="What happens, on stderr: text, or a JSON object a line.")
    ] = "text",
    log_level: Annotated[LogLevel, typer.Option(help="What happens, from this level on.")] = "info",
) -> None:
    """Run one device's part of a deployment until Ctrl-C.

    Prints one line on stdout when it is ready. Peers and clients must show a certificate of the deployment's own
    authority.

    A client says where the other devices listen. The worker dials no port below 1024 for it, its own addresses only for
    a client that is on this machine too, and tells it nothing of what else answers there. `--hosts` pins the addresses.
    One client is served at a time; one that does not answer for 5 s, or has not asked for 10 minutes, loses its place
    when another one comes.

    On stderr it writes one line for each event: started, session opened and closed, peer lost and returned, refused,
    request failed. No line holds an image or a key; what repeats is summed up, one line a second of each kind.

    `--metrics` needs the extra `metrics`. It has neither password nor TLS, so keep it to this machine's own addresses,
    or to a network where everybody may read it. It answers by address; `--host-name` adds a name.

    Example: `sepnas worker deployment/device1 --listen 0.0.0.0:17301 --metrics 127.0.0.1:9100 --log-format json`
    """
    from sepnas.runtime.worker import run_worker

    set_up_logging(log_format, log_level)
    run_worker(
        shard, listen, threads=threads, insecure=insecure, engine=engine, emulation=emulate, metrics=metrics,
        host_names=host_name or (), hosts=hosts,
    )  # fmt: skip


def infer(
    deployment: Deployment,
    images: Annotated[list[Path], typer.Argument(parser=path_of, help="Image files: PNG, JPEG and the like.")],
    devices: HostsFile = None,
    deadline: Deadline = 10.0,
    top: Top = 3,
    resize: ResizeChoice = None,
    on_missing: OnMissingChoice = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    insecure: Insecure = False,
) -> None:
    """Classify images through the devices: a table with the likeliest classes of each image.

    The devices must run (`sepnas worker`); `--devices` says where, unless the deployment's own hosts.yaml does. Images
    of another size than the network reads are resized as they were in training (`sepnas train --image-size`); where
    that resized none, they are refused. `--resize crop` scales the square in their middle, `--resize stretch` all of
    them. Files that are no such images are listed at the end, with exit code 1; the others are answered.

    Example: `sepnas infer deployment --devices hosts.yaml --resize crop photo.jpg`
    """
    manifest = verify_client(deployment, uses_hosts=devices is None)
    read = read_images(images, manifest.input, resize)
    problems = [each for each in read if isinstance(each, DataError)]
    if len(problems) == len(read):
        raise DataError(listed(problems, f"none of {len(read)} images can be read"))
    with Session(deployment, devices=devices, deadline_s=deadline, insecure=insecure, on_missing=on_missing) as session:
        answered = _answered(session, [each for each in read if not isinstance(each, DataError)], top)
    found = iter(answered)
    rows: list[_Row] = [
        (path, each if isinstance(each, DataError) else next(found)) for path, each in zip(images, read, strict=True)
    ]
    print_json([_image_data(*row) for row in rows]) if json_ else _print_classes(rows)
    if problems:
        raise DataError(listed(problems, f"{len(problems)} of {len(read)} images cannot be read"))


def _answered(session: Session, images_CHW: Sequence[Images], top: int) -> list[tuple[Likeliest, Answer]]:
    """Of each image the likeliest classes, and the answer that they come from; a request has a bunch of images."""
    batches = (np.stack(images_CHW[start : start + INFER_BATCH]) for start in range(0, len(images_CHW), INFER_BATCH))
    answered: list[tuple[Likeliest, Answer]] = []
    for answer in session.answers(batches):
        if not answer.complete:
            warn(f"answered without {_left_out(answer)}")
        answered += [(found, answer) for found in likeliest(answer.logits, session.manifest.classes, top)]
    return answered


def _print_classes(rows: Sequence[_Row]) -> None:
    answered = [(path, found[0]) for path, found in rows if not isinstance(found, DataError)]
    places = (text_column(f"{place}.", drop=place - 1) for place in range(1, len(answered[0][1]) + 1))
    table = DataTable((text_column("image", shorten=shorten_paths), *places))
    for path, classes in answered:
        table.add(str(path), *(f"{name} {probability:.1%}" for name, probability in classes))
    print_table(table)


def _left_out(answer: Answer) -> str:
    devices = [f"device {rank}" for rank in answer.without]
    messages = [f"message {m.tag} from device {m.source} to device {m.device}" for m in answer.missing]
    return ", ".join(devices + messages) or "messages that nobody was left to name"


def _image_data(path: Path, found: tuple[Likeliest, Answer] | DataError) -> dict[str, object]:
    if isinstance(found, DataError):
        return {"image": str(path), "error": str(found)}
    classes, answer = found
    data: dict[str, object] = {
        "image": str(path),
        "classes": [{"class": name, "probability": share} for name, share in classes],
    }
    if not answer.complete:
        data |= {"without": answer.without, "missing": list(map(asdict, answer.missing))}
    return data


def bench(
    deployment: Deployment,
    devices: HostsFile = None,
    requests: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Requests to measure.")] = 200,
    warmup: Annotated[int, typer.Option(min=0, help="Requests before the measuring.")] = 20,
    batch: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Images in one request.")] = 1,
    in_flight: Annotated[
        int, typer.Option(min=1, max=MAX_IN_FLIGHT, help="Then as many requests again, so many at once: throughput.")
    ] = 1,
    deadline: Deadline = 10.0,
    cluster: Annotated[Path | None, typer.Option(parser=path_of, help="A cluster to predict with.")] = None,
    trace: Annotated[Path | None, typer.Option(parser=path_of, help="File for the trace of the last requests.")] = None,
    traced: Annotated[int, typer.Option(min=1, max=MAX_TRACES, help="Requests in the trace.")] = 1,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    insecure: Insecure = False,
    emulate: Annotated[
        Path | None, typer.Option(parser=path_of, help="A cluster to emulate on this machine, instead of --devices.")
    ] = None,
    shaping: Annotated[
        ShapingChoice, typer.Option(help="Who shapes emulated links. netns: the kernel (root); auto: it if it can.")
    ] = "auto",
    jitter: Annotated[
        float, typer.Option(parser=time_s, metavar="TIME", help="More latency of each emulated message, at random.")
    ] = 0.0,
    check_links: Annotated[bool, typer.Option("--check-links", help="Measure the emulated links first.")] = False,
) -> None:
    """Measure latency, throughput and bytes of a deployment on random images.

    `--emulate` starts the workers itself, one process for each device of a cluster: computation takes as long as on
    that device, messages as long as on its links, and the simulator's prediction stands beside what was measured.
    `--jitter 2ms` delays each message by so much more on average, at random: as a cluster's own `jitter_s` does.

    Example: `sepnas bench deployment --emulate cluster.yaml --requests 50`
    """
    from sepnas.runtime.bench import bench as measure
    from sepnas.runtime.bench import random_batch

    _refuse_mixture(
        emulate is not None,
        {"--devices": devices, "--cluster": cluster},
        {"--jitter": jitter, "--check-links": check_links, "--shaping": shaping != "auto"},
    )
    if emulate is not None:
        setting = read_setting(deployment, emulate, shaping, batch, jitter, insecure)
        with emulated_cluster(setting) as running:
            links = running.check_links() if check_links else []
            with open_session(setting, running, deadline) as session:
                found = run_bench(setting, session, requests, warmup, links, in_flight)
                print_json(found.to_data()) if json_ else print_emulated(found)
                if trace is not None:
                    session.trace(last=traced).save(trace)
        return
    predicted_s = None if cluster is None else _predicted_latency_s(deployment, cluster, batch)
    with Session(deployment, devices=devices, deadline_s=deadline, insecure=insecure) as session:
        result = measure(session, random_batch(session.manifest, batch), requests, warmup, in_flight)
        if json_:
            print_json(result.to_data() | {"latency_predicted_s": predicted_s})
        else:
            _print_bench(result, predicted_s)
        if trace is not None:  # last: what was measured is shown even if this file cannot be written
            session.trace(last=traced).save(trace)


def _refuse_mixture(emulates: bool, real: Mapping[str, object], emulated: Mapping[str, object]) -> None:
    """Options of a real and of an emulated cluster do not go together; raises typer's ``BadParameter``."""
    for option, value in (real if emulates else emulated).items():
        if value:
            text = (
                "does not go with --emulate, which starts its own workers" if emulates else "goes with --emulate only"
            )
            raise typer.BadParameter(text, param_hint=option)


def _predicted_latency_s(deployment: Path, cluster: Path, batch: int) -> float:
    from sepnas.cost.simulator import simulate
    from sepnas.plan.build import build_plan
    from sepnas.spec.manifest import Manifest

    architecture = Manifest.load(deployment / "manifest.json").architecture
    return simulate(build_plan(architecture), cluster_to_predict_with(cluster), batch).latency_s


def _print_bench(result: BenchResult, predicted_s: float | None) -> None:
    title = f"{format_count(result.requests, 'request')} of {format_count(result.batch, 'image')}"
    table = DataTable((text_column(""), DataColumn("")), title, show_header=False)
    table.add("latency, median", seconds(result.latency_median_s))
    table.add("latency, mean", seconds(result.latency_mean_s))
    table.add("latency, p99", seconds(result.latency_p99_s))
    if predicted_s is not None:
        table.add("latency, predicted", seconds(predicted_s))
    table.add("images a second", number(result.images_per_s))
    if result.stream is not None:
        table.add(f"images a second, {result.stream.in_flight} in flight", number(result.stream.images_per_s))
    table.add("payload bytes a request, counted", number(result.payload_bytes_per_request))
    table.add("payload bytes a request, predicted", number(result.payload_bytes_predicted))
    table.add("with frame headers, counted", number(result.frame_bytes_per_request))
    print_table(table)
