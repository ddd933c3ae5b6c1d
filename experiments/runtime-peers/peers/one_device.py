"""One process alone: the original, or the whole separable network. Variants: torch-eager, torch-nhwc, onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from contestant import Job, pin
from measure import Array, Asking


@contextmanager
def asking(job: Job) -> Iterator[Asking]:
    pin(0)
    yield Asking(in_onnxruntime(job) if job.variant == "onnxruntime" else in_torch(job))


def in_torch(job: Job) -> Callable[[Array], Array]:
    layout = torch.channels_last if job.variant == "torch-nhwc" else torch.contiguous_format
    network = job.load().to(memory_format=layout)

    @torch.inference_mode()
    def ask(images: Array) -> Array:
        logits: Array = network(torch.from_numpy(images).contiguous(memory_format=layout)).numpy()
        return logits

    return ask


def in_onnxruntime(job: Job) -> Callable[[Array], Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    path = job.folder / f"{job.key}.onnx"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def ask(images: Array) -> Array:
        logits: Array = session.run(None, {name: images})[0]
        return logits

    return ask
