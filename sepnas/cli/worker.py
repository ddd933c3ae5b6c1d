"""``sepnas worker``: one device's part of a deployment at work."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sepnas.cli.grouped import grouped
from sepnas.cli.options import HostNames, Insecure, path_of, path_to
from sepnas.deployment.engines.registry import AUTO, engine_names, exact_engines
from sepnas.runtime.worker.log import LogFormat, LogLevel, set_up_logging
from sepnas.spec.arguments import MAX_THREADS

if TYPE_CHECKING:
    WorkerEngine = str
else:
    WorkerEngine = Literal[(*engine_names(), AUTO)]


@dataclass(frozen=True)
class LogOptions:
    """What a worker writes on stderr."""

    log_format: Annotated[LogFormat, typer.Option(help="What happens, on stderr: text, or a JSON object a line.")] = (
        "text"
    )
    log_level: Annotated[LogLevel, typer.Option(help="What happens, from this level on.")] = "info"


@grouped
def worker(
    shard: Annotated[
        Path, typer.Argument(parser=path_to("device"), help="One device's folder, such as deployment/device1.")
    ],
    listen: Annotated[str, typer.Option(help="HOST:PORT to wait on for the client and the other devices.")],
    *,
    threads: Annotated[int, typer.Option(min=1, max=MAX_THREADS, help="Threads of the engine.")] = 1,
    insecure: Insecure = False,
    engine: Annotated[
        WorkerEngine | None,
        typer.Option(
            help=f"What computes; {AUTO} takes the fastest of {', '.join(exact_engines())} here [the first of these "
            "that is installed]."
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
    log: LogOptions,
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
    from sepnas.runtime.worker.run import run_worker

    emulation = None
    if emulate is not None:
        from sepnas.emulation.device import load_emulated

        emulation = partial(load_emulated, emulate)

    set_up_logging(log.log_format, log.log_level)
    run_worker(
        shard, listen, threads=threads, insecure=insecure, engine=engine, emulation=emulation, metrics=metrics,
        host_names=host_name or (), hosts=hosts,
    )  # fmt: skip
