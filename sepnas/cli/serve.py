"""``sepnas serve``: a deployment as an HTTP endpoint, for clients that are not Python."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Annotated

import typer

from sepnas.cli.grouped import grouped
from sepnas.cli.options import (
    Deadline,
    Deployment,
    HostNames,
    HostsFile,
    Insecure,
    OnMissingChoice,
    ResizeChoice,
    Top,
    size_bytes,
)
from sepnas.console import warn
from sepnas.runtime.client.limits import MAX_IN_FLIGHT
from sepnas.spec.hosts import format_address, parse_address


@dataclass(frozen=True)
class LimitOptions:
    """Limits for one client, and for all of them together."""

    max_image_bytes: Annotated[
        float,
        typer.Option(
            parser=size_bytes,
            metavar="SIZE",
            show_default=False,
            help="Maximum size of a body; a larger one gets 413 [10MB].",
        ),
    ] = 10e6
    max_pixels: Annotated[
        int,
        typer.Option(
            min=1,
            max=150_000_000,
            help="Maximum pixels of an image, up to 32 bytes of memory each; a larger one gets 422.",
        ),
    ] = 25_000_000
    max_connections: Annotated[
        int,
        typer.Option(
            min=8, max=100_000, help="Maximum number of connections; beyond it the longest idle one is closed."
        ),
    ] = 1000


@grouped
def serve(
    deployment: Deployment,
    devices: HostsFile = None,
    *,
    listen: Annotated[str, typer.Option(help="HOST:PORT to listen on for HTTP.")] = "127.0.0.1:8080",
    deadline: Deadline = 1.0,
    on_missing: OnMissingChoice = None,
    in_flight: Annotated[
        int, typer.Option(min=1, max=MAX_IN_FLIGHT, help="Maximum number of requests at the devices at once.")
    ] = 4,
    queue: Annotated[
        int, typer.Option(min=0, max=10_000, help="Maximum number of waiting requests; one more gets 503.")
    ] = 16,
    resize: ResizeChoice = None,
    top: Top = 3,
    limits: LimitOptions,
    host_name: HostNames = None,
    insecure: Insecure = False,
) -> None:
    """Answer over HTTP: POST an image to /classify and get its likeliest classes as JSON, or any inputs to /infer.

    /health reports the state of each device (503 while a needed one is lost), /model the network, /docs and
    /openapi.json the interface. Errors are JSON too. The server prints one line when it listens, and runs until Ctrl-C
    or SIGTERM; it then completes the requests in progress. It may start before the devices: it dials them until they
    are up, and again when one is lost; meanwhile clients get 503. Devices serve one client at a time: while this server
    runs, it is the one.

    /infer answers with all outputs: of an image, or of tensors as JSON (`{"inputs": {NAME: [...]}}`) or in a file of
    numpy's (application/x-npz). If the deployment has several plans, `?plan=NAME` selects one for the request.

    The body of /classify is the image itself (`curl -H 'Content-Type: image/png' --data-binary @image.png`): PNG, JPEG,
    WebP, BMP, GIF (its first frame) or binary PPM. A head and a body must arrive within 10 s each; an idle connection
    is kept for 75 s. Requests wait in a bounded queue, a shorter one while clients hang up before their answer. The
    deadline counts from the arrival of the image, and includes decoding and waiting. Two processes decode the images;
    one that exceeds the deadline is killed.

    Requests are accepted by this machine's loopback names and the address that they reach; `--host-name
    images.example.org` adds a name, for example for a proxy. Pages of other sites may not send requests. `--insecure`
    concerns the devices: HTTP itself has neither encryption nor a password.

    Example: `sepnas serve deployment --devices hosts.yaml --listen 127.0.0.1:8080 --resize crop`
    """
    from sepnas.runtime.line_writer import announce
    from sepnas.runtime.service.http_app import http_server, make_app
    from sepnas.runtime.service.service import Service
    from sepnas.runtime.service.summed_log import set_up_summed_log
    from sepnas.runtime.transport.handshake import is_loopback
    from sepnas.runtime.transport.listening import listening_socket

    if limits.max_image_bytes < 1:
        raise typer.BadParameter("must be at least 1 byte", param_hint="--max-image-bytes")
    host, port = parse_address(listen, lowest_port=0)
    service = Service(
        deployment, devices, timeout_s=deadline, insecure=insecure, on_missing=on_missing, in_flight=in_flight,
        queue=queue, resize=resize, top=top, max_pixels=limits.max_pixels,
    )  # fmt: skip
    log = set_up_summed_log("sepnas serve")
    app = make_app(service, int(limits.max_image_bytes), (host, *(host_name or ())))
    server = http_server(app, deadline, limits.max_connections)
    with listening_socket(host, port) as listener, contextlib.closing(log):
        if not is_loopback(host):
            warn(
                f"there is no password: anyone who reaches {listen} can send requests; behind a proxy, listen on "
                "127.0.0.1"
            )
        address = format_address(host, listener.getsockname()[1])
        manifest = service.manifest
        announce(
            f"sepnas serve: listens on http://{address} (deployment {manifest.deployment_id[:16]}; "
            f"{len(service.ranks)} devices; {service.on_missing}; see /docs)"
        )
        server.run(sockets=[listener])
