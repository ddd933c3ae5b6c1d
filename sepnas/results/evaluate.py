"""Evaluates a run, an imported network or a deployment, and keeps the result with its provenance beside it."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from sepnas.console import step_bar
from sepnas.errors import DataError, SpecError
from sepnas.options import option
from sepnas.results.provenance import command_line, git_commit
from sepnas.runtime.client.limits import DEFAULT_TIMEOUT_S
from sepnas.spec.arguments import MAX_COUNT, check_choice, check_integer
from sepnas.spec.evaluation import (
    EVALUATION_NAME,
    ClassifierEvaluation,
    NetworkKind,
    SplitChoice,
    earlier_evaluations,
    keep_evaluation,
)
from sepnas.spec.figures import MAX_TEXT
from sepnas.spec.folder_lock import changing
from sepnas.spec.hosts import Hosts
from sepnas.spec.image_file import Resize
from sepnas.terminal import one_line
from sepnas.train.source import DataSource

if TYPE_CHECKING:
    from sepnas.measure.evaluation.class_matching import MatchedClasses
    from sepnas.measure.evaluation.networks import Classifier, Deployed, InProcess
    from sepnas.measure.evaluation.run import MeasuredScores
    from sepnas.measure.evaluation.split_images import SplitImages

PathLike: TypeAlias = str | os.PathLike[str]


def evaluate(
    network: PathLike,
    *,
    data: DataSource | str | None = None,
    split: SplitChoice | None = None,
    resize: Resize | None = None,
    limit: int | None = None,
    devices: Hosts | PathLike | None = None,
    plan: str | None = None,
    compare: PathLike | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    insecure: bool = False,
    out: PathLike | None = None,
) -> ClassifierEvaluation:
    """Accuracy, confusions and calibration of a classifier on a split, kept in ``evaluation.json`` beside its weights.

    >>> found = evaluate("training", data="digits")
    >>> found.data_words, found.through_words, len(found.scores.classes)
    ('359 images of digits, validation split', 'one process', 10)

    Args:
        network: a training run (its best epoch) or an imported network, which this process computes, or a deployment,
            which its devices compute.
        data: a data set as for :func:`sepnas.api.train`, by default a run's own; also a folder of class folders without
            splits (``folder:PATH``). Its classes must be among the network's, by name; folders of other networks than
            runs also by index or WordNet id.
        split: ``validation`` by default; ``test`` is for the final figure.
        resize: as for `sepnas infer`: the treatment of image files of another size, by default the network's own.
        limit: evaluate at most this number of images, spread evenly over the split.
        devices: addresses of a deployment's devices or their file; its own ``hosts.yaml`` by default.
        plan: the deployment's plan.
        compare: the run or imported network that the deployment was exported from; it computes the same images in this
            process, and the predictions are compared.
        timeout_s, insecure: as for :class:`Session`.
        out: the file that the evaluation is added to.

    Raises:
        DataError: data that are missing, damaged, or of other classes; a network that is no classifier of images.
        CheckpointError: a run without a finished epoch.
        SpecError: a folder of another kind, or an argument that does not apply to it.
        DeploymentError, ExchangeError: see :class:`Session`; ``compare`` names another network.
        StorageError: ``out`` cannot be written.
    """
    prepared = prepare(
        network, data=data, split=split, resize=resize, limit=limit, devices=devices, plan=plan, compare=compare,
        out=out,
    )  # fmt: skip
    return prepared.run(timeout_s=timeout_s, insecure=insecure)


def prepare(
    network: PathLike,
    *,
    data: DataSource | str | None = None,
    split: SplitChoice | None = None,
    resize: Resize | None = None,
    limit: int | None = None,
    devices: Hosts | PathLike | None = None,
    local: bool = False,
    plan: str | None = None,
    compare: PathLike | None = None,
    out: PathLike | None = None,
) -> PreparedEvaluation:
    """What :func:`evaluate` is asked for, checked before any device is; with ``local`` devices are started later.

    Raises the errors of :func:`evaluate`, but for those of a session.
    """
    from sepnas.measure.evaluation.class_matching import match_classes
    from sepnas.measure.evaluation.networks import Deployed, kind_of, open_in_process, open_whole
    from sepnas.measure.evaluation.split_images import images_for

    if split is not None:
        check_choice("split", split, get_args(SplitChoice))
    if limit is not None:
        check_integer("limit", limit, 1, MAX_COUNT)
    folder, started = Path(network), time.monotonic()
    kind = kind_of(folder)
    if kind != "deployment":
        _refuse_for(folder, devices=devices, local=local or None, plan=plan, compare=compare)
    source = _source(data, kind)
    file = Path(out) if out is not None else (folder if folder.is_dir() else folder.parent) / EVALUATION_NAME
    with changing(file):
        earlier_evaluations(file)  # a damaged file, or one that cannot be written, is found before the evaluation
    hosts = devices if devices is None or isinstance(devices, Hosts) else Hosts.load(devices)
    found = Deployed.load(folder, plan) if kind == "deployment" else open_in_process(folder)
    whole = open_whole(Path(compare), found) if compare is not None and isinstance(found, Deployed) else None
    images = images_for(folder, kind, source, found.head.image, split, resize).limited(limit)
    matched = match_classes(images.classes, found.head.classes, images.name, only_names=kind == "run")
    images.check_files()
    return PreparedEvaluation(folder, kind, found, hosts, images, matched, whole, _told(compare or ""), file, started)


@dataclass(frozen=True)
class PreparedEvaluation:
    """An evaluation whose network and images are there; ``whole`` computes the same images in this process."""

    folder: Path
    kind: NetworkKind
    network: InProcess | Deployed
    hosts: Hosts | None
    images: SplitImages
    matched: MatchedClasses
    whole: InProcess | None
    whole_name: str
    file: Path
    started: float

    def run(
        self, hosts: Hosts | None = None, timeout_s: float = DEFAULT_TIMEOUT_S, insecure: bool = False
    ) -> ClassifierEvaluation:
        """Compute it, by the devices at these addresses if given, and keep it; see :func:`evaluate`."""
        from sepnas.measure.evaluation.networks import InProcess
        from sepnas.measure.evaluation.run import measure

        with ExitStack() as stack, step_bar("evaluate") as show:
            if isinstance(self.network, InProcess):
                classifier: Classifier = self.network
            else:
                classifier = stack.enter_context(self.network.open(hosts or self.hosts, timeout_s, insecure))
            found = measure(classifier, self.images, self.matched, show, self.whole, self.whole_name)
            evaluation = self._document(classifier, found)
        keep_evaluation(evaluation, self.file)
        return evaluation

    def _document(self, classifier: Classifier, found: MeasuredScores) -> ClassifierEvaluation:
        images = self.images
        return ClassifierEvaluation(
            network=_told(self.folder), kind=self.kind, weights=classifier.weights,
            num_classes=len(classifier.head.classes), **_through(classifier), data=_told(images.name),
            split=images.split, images=len(images.labels), images_in_split=images.num_in_split,
            classes_in_data=len(images.classes), matched_by=self.matched.way, content_sha256=found.content_sha256,
            scores=found.scores, agreement=found.agreement, command=one_line(command_line()), commit=git_commit(),
            duration_s=time.monotonic() - self.started, date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )  # fmt: skip


def _told(path: PathLike) -> str:
    """A path as a document holds it."""
    return one_line(os.fspath(path))[-MAX_TEXT:]


def _refuse_for(folder: Path, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise SpecError(
                f"{folder}: is no deployment, so {option(f'--{name}', name)} does not apply; one process computes it"
            )


def _source(data: DataSource | str | None, kind: NetworkKind) -> DataSource:
    source = data if isinstance(data, DataSource) else DataSource(data)
    if source.name is None and kind != "run":
        raise DataError(
            f"no data set is named; name the images with {option('--data', 'data=')}: digits, cifar10, cifar100, "
            "fashion-mnist or folder:PATH"
        )
    return source


def _through(classifier: Classifier) -> dict[str, Any]:
    from sepnas.measure.evaluation.networks import ThroughDevices

    if not isinstance(classifier, ThroughDevices):
        return {"through": "process"}
    session = classifier.session
    plan = session.plans[0]
    working = session.manifest.plan(plan).working
    return {
        "through": "devices", "plan": plan, "num_devices": len(working), "exchanged": classifier.exchanged()
    }  # fmt: skip
