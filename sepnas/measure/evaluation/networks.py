"""The networks that can be evaluated: runs and imported networks in one process, deployments through their devices."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from typing_extensions import Self

from sepnas.deploy.facts import facts_of
from sepnas.deploy.graph_export import graph_facts
from sepnas.deploy.identity import deployment_identity
from sepnas.deployment.manifest import MANIFEST_NAME, Manifest
from sepnas.deployment.network_facts import ImageInput, NetworkFacts
from sepnas.deployment.verify import verify_client
from sepnas.errors import CheckpointError, DataError, DeploymentError, SpecError
from sepnas.nets.graph import load_graph_network
from sepnas.partition.graph import is_graph
from sepnas.runtime.client.images import normalise
from sepnas.runtime.client.session import Session
from sepnas.runtime.tensors.codec import Array
from sepnas.spec.dataset import DataFacts
from sepnas.spec.evaluation import ExchangedBytes, NetworkKind
from sepnas.spec.hosts import Hosts
from sepnas.spec.image_file import Images
from sepnas.spec.recognise import recognise
from sepnas.train.checkpoint import ARCHITECTURE, BEST, DATA, load_network, tensors_sha256
from sepnas.train.threads import use_threads_for

_REQUEST_BYTES = 1 << 20
"""Pixels of one batch; bounds the time of a request."""
_MAX_BATCH = 64


@dataclass(frozen=True)
class ClassifierHead:
    """The image that a network takes, and its output of class scores with the classes' names."""

    image: ImageInput
    output: str
    classes: tuple[str, ...]

    @classmethod
    def of(cls, facts: NetworkFacts, where: Path) -> ClassifierHead:
        """The head of a classifier of images; classes without names are numbered. Raises :class:`DataError`."""
        if facts.image is None:
            raise DataError(
                f"{where}: takes no images whose mean and standard deviation are known, but {facts.inputs_text}; only "
                "classifiers of images can be evaluated; `sepnas import --mean --std` gives both to an imported network"
            )
        if facts.scores is not None and facts.classes is not None:
            return cls(facts.image, facts.scores, facts.classes)
        [*outputs] = facts.outputs.items()
        name, first = outputs[0]
        if len(outputs) > 1 or first.shape.axes != "C" or first.shape.dims[0] < 2:
            raise DataError(
                f"{where}: names no classes; only classifiers can be evaluated, and its outputs are "
                f"{facts.outputs_text}; `sepnas import --classes` names those of an imported network"
            )
        return cls(facts.image, name, tuple(map(str, range(first.shape.dims[0]))))

    @property
    def batch(self) -> int:
        """The number of images that are computed at once."""
        return max(1, min(_MAX_BATCH, _REQUEST_BYTES // prod(self.image.dims)))


class Classifier(Protocol):
    """What is evaluated. ``weights`` is the digest of its tensors, or a deployment's identity."""

    head: ClassifierHead
    weights: str

    def logits(self, batches: Iterable[Images]) -> Iterator[Array]:
        """The class scores ``(B, classes)`` of each batch ``(B, C, H, W)`` uint8."""


class InProcess:
    """The network of a run, or an imported one, in this process."""

    def __init__(self, network: nn.Module, head: ClassifierHead, takes_batches: bool) -> None:
        self.network, self.head = network, head
        self.weights = tensors_sha256(network.state_dict())
        self._takes_batches = takes_batches

    def logits(self, batches: Iterable[Images]) -> Iterator[Array]:
        """See :class:`Classifier`."""
        return map(self._answer, batches)

    @torch.inference_mode()
    def _answer(self, images_BCHW: Images) -> Array:
        x_BCHW = torch.from_numpy(normalise(images_BCHW, self.head.image))
        answers = [self.network(x) for x in torch.split(x_BCHW, len(x_BCHW) if self._takes_batches else 1)]
        found = torch.cat([each[self.head.output] if isinstance(each, dict) else each for each in answers])
        logits: Array = found.float().numpy()
        return logits


class ThroughDevices:
    """A deployment, answered by its devices in a session."""

    def __init__(self, session: Session, head: ClassifierHead) -> None:
        self.session, self.head, self.weights = session, head, session.manifest.deployment_id

    def logits(self, batches: Iterable[Images]) -> Iterator[Array]:
        """See :class:`Classifier`."""
        for answer in self.session.answers(batches):
            yield answer.outputs[self.head.output]

    def exchanged(self) -> ExchangedBytes:
        """The bytes of all tensors since the session was opened, counted on the sockets."""
        counted = self.session.counters()
        return ExchangedBytes(
            payload_bytes=counted.payload_bytes, input_bytes=counted.input_bytes, total_bytes=counted.total_bytes
        )


def kind_of(path: Path) -> NetworkKind:
    """Whether a folder is a run, an imported network or a deployment; :class:`SpecError` for anything else."""
    if is_graph(str(path)):
        return "network"
    if (path / MANIFEST_NAME).is_file():
        return "deployment"
    if (path / ARCHITECTURE).is_file():
        return "run"
    known = recognise(path)
    what = known[1] if known else "no folder of sepnas" if path.is_dir() else "no folder"
    raise SpecError(
        f"{path}: is {what}; name the folder of a training run (`sepnas train`), of an imported network "
        "(`sepnas import`) or of a deployment (`sepnas export`)"
    )


def open_in_process(path: Path) -> InProcess:
    """The network of a run (best epoch) or an imported one.

    Raises :class:`CheckpointError` for a run without a finished epoch, :class:`SpecError` for damaged files, and
    :class:`DataError` for a network that is no classifier of images.
    """
    kind = kind_of(path)
    if kind == "deployment":
        raise SpecError(f"{path}: is a deployment, which its devices compute; name a run or an imported network")
    return _open_run(path) if kind == "run" else _open_graph(path)


def _open_run(run: Path) -> InProcess:
    for file in (DATA, BEST):
        if not (run / file).exists():
            raise CheckpointError(f"{run}: has no finished epoch to evaluate: {file} is missing")
    network, facts = load_network(run), DataFacts.load(run / DATA)
    size = network.architecture.image_size
    image = ImageInput(
        channels=network.architecture.in_channels, height=size, width=size, mean=facts.mean, std=facts.std,
        resize=facts.resize,
    )  # fmt: skip
    use_threads_for(network.architecture)
    head = ClassifierHead.of(facts_of([network.plan], network.architecture, facts.classes, image), run)
    return InProcess(network, head, takes_batches=True)


def _open_graph(folder: Path) -> InProcess:
    network = load_graph_network(folder)
    return InProcess(network, ClassifierHead.of(graph_facts(network.graph), folder), takes_batches=False)


@dataclass(frozen=True)
class Deployed:
    """A deployment under one plan, whose devices have not been asked for anything yet."""

    folder: Path
    manifest: Manifest
    plan: str
    head: ClassifierHead

    @classmethod
    def load(cls, folder: Path, plan: str | None) -> Self:
        """Raises :class:`SpecError` for an unknown plan, :class:`DeploymentError` for a file that was changed, and
        :class:`DataError` for a network that is no classifier of images."""
        manifest = verify_client(folder, uses_hosts=False)
        name = manifest.default_plan if plan is None else plan
        facts = NetworkFacts(inputs=manifest.inputs_of(name), outputs=manifest.outputs_of(name))
        return cls(folder, manifest, name, ClassifierHead.of(facts, folder))

    @contextmanager
    def open(self, devices: Hosts | None, timeout_s: float, insecure: bool) -> Generator[ThroughDevices]:
        """Its devices; errors are those of :class:`Session`. Every answer is complete."""
        with Session(
            self.folder, devices, timeout_s=timeout_s, insecure=insecure, on_missing="strict", plans=[self.plan]
        ) as session:
            yield ThroughDevices(session, self.head)


def open_whole(path: Path, deployed: Deployed) -> InProcess:
    """The run or imported network that a deployment was exported from; :class:`DeploymentError` for any other."""
    found, manifest = open_in_process(path), deployed.manifest
    if deployment_identity(found.network, manifest.network) != manifest.deployment_id:
        raise DeploymentError(
            f"{deployed.folder}: was not exported from {path}: their weights differ; name the network that it was "
            "exported from, or export it again"
        )
    return found
