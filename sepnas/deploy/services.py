"""Service files that start a device's worker at boot: a systemd unit, a Dockerfile.

The manifests do not list them, because the device's administrator may edit them.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sepnas.deployment.engines.kind import EngineKind
from sepnas.deployment.engines.registry import engines
from sepnas.deployment.manifest import SHARD_NAME, device_folder
from sepnas.spec.document import write_text
from sepnas.spec.hosts import format_address, parse_address

Service = Literal["systemd", "docker"]
UNIT_NAME = "sepnas-worker.service"
PREFIX = "/opt/sepnas"
_USER_ID = 10001


@dataclass(frozen=True)
class DeviceService:
    """The service files of one device; ``address`` is its entry in hosts.yaml."""

    deployment: str
    rank: int
    num_devices: int
    address: str
    engine: str

    @property
    def kind(self) -> EngineKind:
        return engines()[self.engine]

    @property
    def port(self) -> int:
        return parse_address(self.address)[1]

    @property
    def listen(self) -> str:
        """The address to listen on: all interfaces, in the IP version of ``address``, or ``address`` if loopback."""
        try:
            address = ipaddress.ip_address(parse_address(self.address)[0])
        except ValueError:  # a name
            return f"0.0.0.0:{self.port}"
        if address.is_loopback:
            return self.address
        return format_address("0.0.0.0" if address.version == 4 else "::", self.port)

    @property
    def what(self) -> str:
        return f"device {self.rank} of {self.num_devices} of '{self.deployment}'"

    def write(self, folder: Path, services: tuple[Service, ...]) -> None:
        """Write the files into a device's folder."""
        files = {}
        if "systemd" in services:
            files[UNIT_NAME] = self.unit()
        if "docker" in services:
            files |= {"Dockerfile": self.dockerfile(), ".dockerignore": self.dockerignore()}
        for name, text in files.items():
            write_text(folder / name, text)

    def unit(self) -> str:
        """The systemd unit; its first lines say how to install it."""
        folder = f"{PREFIX}/{device_folder(self.rank)}"
        return _UNIT.format(
            what=self.what.replace("%", "%%"),  # systemd's specifiers begin with %
            said=self.what,
            folder=folder,
            name=device_folder(self.rank),
            engine=self.engine,
            extra=self.kind.extra,
            listen=self.listen.replace("%", "%%"),
            prefix=PREFIX,
            unit=UNIT_NAME,
            jit=f"# {self.engine} makes code while it runs; with another engine: " if self.kind.makes_code else "",
        )

    def dockerfile(self) -> str:
        """The Dockerfile; its first lines say how to build and run the image."""
        return _DOCKERFILE.format(
            said=self.what,
            name=device_folder(self.rank),
            engine=self.engine,
            extra=self.kind.extra,
            port=self.port,
            shard=SHARD_NAME,
            user=_USER_ID,
            index=f" --extra-index-url {self.kind.package_index}" if self.kind.package_index else "",
        )

    def dockerignore(self) -> str:
        return (
            "# only what the Dockerfile takes: no key may get into the build, not even for a moment\n"
            f"*\n!{SHARD_NAME}\n!weights*.safetensors\n!segments\n!sepnas-*.whl\n"
        )


_UNIT = """\
# sepnas worker: {said}
#
# Install it on the device, as root (python3 -m venv needs Debian's package python3-venv):
#   useradd --system --home-dir {prefix} --shell /usr/sbin/nologin sepnas
#   python3 -m venv {prefix}/venv
#   {prefix}/venv/bin/pip install 'sepnas-VERSION-py3-none-any.whl[{extra}]'   # from: pip wheel --no-deps SEPNAS
#   cp -r {name} {prefix}/
#   chown -R root:sepnas {folder} && chown -R sepnas: {folder}/tls
#   chmod 700 {folder}/tls && find {folder}/tls -name key.pem -exec chmod 600 {{}} +
#   cp {folder}/{unit} /etc/systemd/system/
#   systemctl daemon-reload && systemctl enable --now {unit}
# Then: systemctl status {unit}; journalctl -u {unit}
# Two devices on one machine need two names of this unit, two folders and two ports.
# Renewed certificates (sepnas certs renew) are taken without a restart; repeat the chown and chmod of tls.

[Unit]
Description=sepnas worker, {what}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
User=sepnas
Group=sepnas
WorkingDirectory={folder}
Environment=OMP_WAIT_POLICY=PASSIVE PYTHONDONTWRITEBYTECODE=1
ExecStart={prefix}/venv/bin/sepnas worker {folder} --listen {listen} --engine {engine}
Restart=always
RestartSec=2
KillSignal=SIGTERM
TimeoutStopSec=15
LimitNOFILE=4096
UMask=0077

# it reads its folder, computes, and talks over IP: nothing else
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
{jit}MemoryDenyWriteExecute=yes

[Install]
WantedBy=multi-user.target
"""

_DOCKERFILE = """\
# sepnas worker: {said}
#
# Build it here, in {name}/, with a wheel of sepnas beside this file:
#   pip wheel --no-deps --wheel-dir . SEPNAS            # SEPNAS: the folder of its source
#   docker build --tag sepnas-{name} .
# Run it; the key is mounted, never part of the image, and must belong to the container's user:
#   sudo chown -R {user}:{user} tls
#   docker run --detach --restart always --name sepnas-{name} --publish {port}:{port} \\
#     --volume "$PWD/tls:/device/tls:ro" --read-only --tmpfs /tmp --cap-drop ALL \\
#     --security-opt no-new-privileges sepnas-{name}
# Renewed certificates (sepnas certs renew), copied into tls/, are taken without a restart; repeat the chown.

FROM python:3.11-slim
ENV OMP_WAIT_POLICY=PASSIVE PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY sepnas-*.whl /tmp/wheel/
RUN pip install --no-cache-dir{index} "$(ls /tmp/wheel/sepnas-*.whl)[{extra}]" && rm -r /tmp/wheel
WORKDIR /device
COPY {shard} weights*.safetensors ./
COPY segments segments/
USER {user}:{user}
EXPOSE {port}
STOPSIGNAL SIGTERM
# the worker's side of a TLS handshake: that it answers, not only that its port is open
HEALTHCHECK --interval=60s --timeout=5s --start-period=60s \\
  CMD ["python", "-c", "import ssl; ssl.get_server_certificate(('127.0.0.1', {port}), timeout=4)"]
ENTRYPOINT ["sepnas", "worker", "/device", "--listen", "0.0.0.0:{port}", "--engine", "{engine}"]
"""
