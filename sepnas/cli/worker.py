"""``sepnas worker``: run one device of a deployment."""

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
    """The format and level of the log on stderr."""

    log_format: Annotated[LogFormat, typer.Option(help="Log on stderr: text, or one JSON object a line.")] = "text"
    log_level: Annotated[LogLevel, typer.Option(help="Lowest level of the log.")] = "info"


@grouped
def worker(
    shard: Annotated[
        Path, typer.Argument(parser=path_to("device"), help="One device's folder, such as deployment/device1.")
    ],
    listen: Annotated[str, typer.Option(help="HOST:PORT to listen on for the client and the other devices.")],
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
        Path | None, typer.Option(parser=path_of, help="Emulation settings, written by `sepnas bench --emulate`.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="HOST:PORT of metrics for Prometheus, such as 127.0.0.1:9100."),
    ] = None,
    host_name: HostNames = None,
    hosts: Annotated[
        Path | None, typer.Option(parser=path_of, help="hosts.yaml with the other devices; overrides clients.")
    ] = None,
    log: LogOptions,
) -> None:
    """Run one device's part of a deployment until Ctrl-C.

    Prints one line on stdout when it is ready. Peers and clients must present a certificate of the deployment's own
    authority.

    A client provides the addresses of the other devices. The worker dials no port below 1024 for a client, its own
    addresses only for a client on this machine, and does not reveal what else answers at an address. `--hosts` fixes
    the addresses. One client is served at a time; a client that does not respond for 5 s, or sends no request for 10
    minutes, loses its place to the next one.

    The log on stderr has one line for each event: started, session opened and closed, peer lost and returned,
    connection refused, request failed. No line contains an image or a key; repeated events are summed up, at most one
    line a second of each kind.

    `--metrics` needs the extra `metrics`. It has neither a password nor TLS: keep it on this machine's own addresses,
    or on a network where everybody may read it. It answers requests by address; `--host-name` adds a name.

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
