"""axonmesh: an edge half and a cloud half, and a connection between them that carries int8. Variants: zlib, plain."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from axonmesh import CloudServer, EdgeClient, Kind
from axonmesh.protocol import pack_tensors
from contestant import PORT, Job, followers, pin
from measure import Array, Asking
from torch import nn
from torch.fx import symbolic_trace

START_TIMEOUT_S = 60.0


class LogitsClient(EdgeClient):
    """Its own client takes a picture of three channels and reads boxes; this one takes a batch and reads logits."""

    def logits(self, images: Array) -> Array:
        wire = self.runner.edge(torch.from_numpy(images))
        payload = pack_tensors(wire, axis=self.axis, compress=self.compress)
        answer, _ = self._roundtrip(Kind.FEATURES, payload, 0, Kind.RESULT)
        return np.frombuffer(answer, np.float32)[None]


@contextmanager
def asking(job: Job) -> Iterator[Asking]:
    with followers(job):
        pin(0)
        network, cut = split_of(job)
        with connect(network, cut, compress=job.variant == "zlib") as client:
            yield Asking(client.logits)


def follow(job: Job) -> None:
    pin(1)
    network, cut = split_of(job)
    CloudServer(
        network, cut, imgsz=32, host="127.0.0.1", port=PORT, postprocess=lambda logits: logits.numpy().tobytes()
    ).serve_forever()


def split_of(job: Job) -> tuple[nn.Sequential, int]:
    """The original, and the node of its graph before the layer at which the second stage of a pipeline begins."""
    network, (begin,) = job.original(), job.cuts()
    nodes = [node for node in symbolic_trace(network).graph.nodes if node.op != "placeholder"]
    return network, next(index for index, node in enumerate(nodes) if str(node.target).startswith(begin)) - 1


def connect(network: nn.Sequential, cut: int, compress: bool) -> LogitsClient:
    limit = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return LogitsClient("127.0.0.1", PORT, network, cut, imgsz=32, compress=compress)
        except ConnectionRefusedError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.1)
