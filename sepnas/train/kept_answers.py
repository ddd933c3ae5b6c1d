"""Distillation from kept answers: a teacher's logits, computed once for each training image and for its mirror image.

They lie in a file of the run, tied to the teacher and the images by digests. A run that is stopped while it computes
them goes on after the last ones that were written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from sepnas.errors import CheckpointError, TrainingError
from sepnas.nets.trainable import TrainableGraph, load_trainable
from sepnas.partition.graph import Graph, graph_file, is_graph
from sepnas.partition.heads import num_scores
from sepnas.separation.document import Separation
from sepnas.train.batches import Batch
from sepnas.train.checkpoint import is_there, load_network, read_checkpoint, tensors_sha256, write_checkpoint
from sepnas.train.checks import classes_text, knows_classes
from sepnas.train.data import resize_images
from sepnas.train.distill import softened_divergence
from sepnas.train.earlier_runs import check_same_data
from sepnas.train.evaluate import predict_logits
from sepnas.train.images import ImageData, content_sha256
from sepnas.train.recipe import Precision

FILE = "teacher{}.safetensors"
AT_ONCE = 512
"""Images between two looks at the clock."""
WRITE_S = 60.0
"""Seconds between two writes of what was computed."""
Report = Callable[[str, int, int], None]
"""Called with what is done, the number of images done, and the total."""
_LOGITS = "logits"


@dataclass(frozen=True, eq=False)
class KeptTeacher:
    """A trained network whose answers are kept. ``images`` are those that it teaches, normalised as it was trained.

    If it takes squares of another ``side``, in pixels, it answers resized images. ``separation`` is that of a separated
    student.
    """

    name: str
    network: nn.Module
    images: ImageData
    side: int | None = None
    separation: Separation | None = None

    @cached_property
    def identity(self) -> str:
        """A digest of its weights."""
        return tensors_sha256({name: x.cpu() for name, x in self.network.state_dict().items()})

    def has_maps_for(self, images: ImageData) -> bool:
        """Whether its feature maps may be compared with those of a graph that takes these images."""
        alike = (self.images.mean, self.images.std) == (images.mean, images.std)
        return alike and self.side is None and isinstance(self.network, TrainableGraph)

    def sees(self, images_NCHW: Tensor) -> Tensor:
        """Images in the size that it takes."""
        return images_NCHW if self.side is None else resize_images(images_NCHW, self.side)


def load_kept_teacher(folder: Path, images: ImageData) -> KeptTeacher:
    """The teacher of a folder: an imported network, or the best epoch of a run on the same images.

    An imported network may take squares of another size.

    Raises :class:`TrainingError`, or the errors of reading it.
    """
    if not is_graph(str(folder)):
        network = load_network(folder)
        check_same_data("teacher", folder, images)
        _check_shape(folder, (network.architecture.in_channels, *(network.architecture.image_size,) * 2), images)
        return KeptTeacher(str(folder), network, images)
    graph_network = load_trainable(graph_file(folder).parent)
    graph = graph_network.graph
    if not knows_classes(graph, images):
        raise TrainingError(
            f"teacher {folder}: knows {classes_text(num_scores(graph), graph.traits.classes)}, {images.name!r} has "
            f"{classes_text(images.num_classes, images.classes)}; fine-tune it on these images first"
        )
    if graph.image_input is None:
        raise TrainingError(f"teacher {folder}: has no mean and deviation of images; import it with --mean and --std")
    taught = replace(images, mean=graph.traits.mean, std=graph.traits.std)
    return KeptTeacher(str(folder), graph_network, taught, _side_of(folder, graph, images))


def _side_of(folder: Path, graph: Graph, images: ImageData) -> int | None:
    """The side of the squares that a teacher takes, if it is not that of the images."""
    wanted, found = graph.tensors[graph.inputs[0]].dims[1:], tuple(images.train.images.shape[1:])
    if wanted[0] == found[0] and len({*wanted[1:]}) == len({*found[1:]}) == 1:
        return None if wanted == found else wanted[1]
    _check_shape(folder, wanted, images)
    return None


def _check_shape(folder: Path, wanted: tuple[int, ...], images: ImageData) -> None:
    found = tuple(images.train.images.shape[1:])
    if wanted != found:
        sizes = ["x".join(map(str, each)) for each in (wanted, found)]
        raise TrainingError(
            f"teacher {folder}: takes images of {sizes[0]}, but those of {images.name!r} have {sizes[1]}; train both "
            "on images of one size"
        )


class KeptAnswers:
    """The logits of teachers for the training images, and for the mirrored ones if any are.

    :meth:`prepare` computes or reads them; then :meth:`of` gives those of a batch. ``precision`` is that of the
    recipe: with bf16 a processor answers four times faster, and channels lie last.
    """

    def __init__(
        self, teachers: Sequence[KeptTeacher], images: ImageData, mirrored: bool, precision: Precision = "fp32"
    ) -> None:
        self.teachers = tuple(teachers)
        self._images, self._ways = images.train.images, 2 if mirrored else 1
        self._content, self._in_bf16 = content_sha256(images.train), precision == "bf16"
        self._logits_TNWK = torch.zeros(0)

    def prepare(self, folder: Path, device: torch.device, report: Report, writes: bool = True) -> None:
        """Compute all answers that are not in the folder's files, and write them there if ``writes``.

        Raises :class:`CheckpointError` for files of other teachers or images, and :class:`StorageError`.
        """
        found = [
            self._prepared(teacher, folder / FILE.format(place), device, report, writes)
            for place, teacher in enumerate(self.teachers)
        ]
        self._logits_TNWK = torch.stack(found)

    def of(self, batch: Batch) -> Tensor:
        """The answers ``(T, B, K)`` for a batch, on its device."""
        way_B = torch.zeros_like(batch.places) if batch.mirrored is None else batch.mirrored.long()
        return self._logits_TNWK[:, batch.places, way_B].to(batch.images.device)

    def _prepared(self, teacher: KeptTeacher, file: Path, device: torch.device, report: Report, writes: bool) -> Tensor:
        count, classes = len(self._images), teacher.images.num_classes
        about = {"teacher": teacher.identity, "images": self._content, "ways": self._ways}
        if self._in_bf16:
            about["precision"] = "bf16"
            teacher.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        logits_NWK, done = torch.zeros(count, self._ways, classes), 0
        if is_there(file):
            tensors, meta = read_checkpoint(file)
            logits_NWK, done = tensors.get(_LOGITS, logits_NWK), int(meta.get("done", 0))
            if {key: meta.get(key) for key in about} != about or logits_NWK.shape != (count, self._ways, classes):
                raise CheckpointError(
                    f"{file}: holds the answers of another teacher than {teacher.name}, or for other images; remove "
                    "it, or choose another folder"
                )
        written = time.monotonic()
        while done < count:
            report(f"answers of {teacher.name}", done, count)
            part = teacher.sees(self._images[done : done + AT_ONCE])
            for way, images in enumerate((part, part.flip(3))[: self._ways]):
                with torch.autocast(device.type, torch.bfloat16, enabled=self._in_bf16):
                    found = predict_logits(teacher.network, images, teacher.images, device=device, tick=_silent)
                logits_NWK[done : done + len(part), way] = found
            done += len(part)
            if writes and (done == count or time.monotonic() - written > WRITE_S):
                write_checkpoint(file, {_LOGITS: logits_NWK}, {**about, "done": done})
                written = time.monotonic()
        if not bool(logits_NWK.isfinite().all()):
            raise TrainingError(f"teacher {teacher.name}: its answers are not finite (NaN or infinite)")
        return logits_NWK


def divergence_from(logits_BK: Tensor, taught_TBK: Tensor, temperature: float) -> Tensor:
    """The mean over the teachers of the divergence between their kept answers and a student's."""
    return torch.stack([softened_divergence(logits_BK, each, temperature) for each in taught_TBK]).mean()


def _silent(done: int, total: int) -> None:
    """Show no progress of one part."""
