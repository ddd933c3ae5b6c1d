"""Training by several processes, one for each GPU, as ``torchrun`` starts them.

Each process takes its part of every batch; gradients are averaged, so that a step is that of the whole batch, but for
batch norms, which see the images of their own process, and draws within the step. The first process writes.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

from sepnas.errors import TrainingError
from sepnas.train.ended import ADVICE


class Processes:
    """This process among all; alone where ``torchrun`` started none."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @property
    def first(self) -> bool:
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """This process' share of the rows of a batch."""
        return batch.tensor_split(self.count)[self.rank] if self.count > 1 else batch

    def seed(self, seed: int) -> int:
        """Another one in each process, the given one in the first."""
        return (seed + self.rank) % 2**63

    def mean_loss(self, loss: Tensor, part: int, batch: int) -> Tensor:
        """To differentiate: gradients of such losses, averaged over the processes, are those of the whole batch."""
        return loss if self.count == 1 else loss * (part * self.count / batch)

    def average(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their means over the processes."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _others_there(self.rank):
            distributed.all_reduce(flat)
        flat /= self.count
        means = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.view_as(tensor))

    def average_gradients(self, network: nn.Module) -> None:
        """What a process did not compute counts as 0, also where no other did: it decays then, as alone it does not."""
        if self.count == 1:
            return
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.average([parameter.grad for parameter in parameters if parameter.grad is not None])

    def average_statistics(self, network: nn.Module) -> None:
        """Running means and variances of batch norms."""
        self.average([buffer for buffer in network.buffers() if buffer.is_floating_point()])

    def check_alike(self, what: str, value: float) -> None:
        """Raise :class:`TrainingError` in a process where this is another number than in the first."""
        first = self.told(value)
        if value != first:
            raise TrainingError(
                f"process {self.rank} begins with {what} {value:g}, the first one with {first:g}; all of them must "
                "read the same data and the same --out"
            )

    def told(self, value: float) -> float:
        """What the first process says."""
        if self.count == 1:
            return value
        kind = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        box = torch.tensor(value, dtype=torch.float64, device=kind)
        with _others_there(self.rank):
            distributed.broadcast(box, 0)
        return float(box)


@contextmanager
def _others_there(rank: int) -> Iterator[None]:
    """What a lost process makes of a call in another one, as :class:`TrainingError`."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"process {rank} has lost another of this training, which failed or was killed: look for its own words "
            f"above, or torchrun's below; {ADVICE} ({str(error).splitlines()[0]})"
        ) from error


def is_alone() -> bool:
    """Whether ``torchrun`` started this process: variables of other launchers are not asked."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1"


def is_first() -> bool:
    """Whether this process is alone, or the one of several that speaks and writes."""
    return is_alone() or os.environ.get("RANK") == "0"


def processes_of(device: torch.device) -> tuple[Processes, torch.device]:
    """Join those that ``torchrun`` started, if it did, until the process ends; on CUDA each takes a GPU.

    Raises :class:`TrainingError` where there are more of them than GPUs, or they do not find each other.
    """
    if is_alone():
        return Processes(), device
    if device.type == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise TrainingError(
                f"torchrun started process {local} of this machine, which has {gpus} GPUs; start one for each: "
                "torchrun --nproc-per-node gpu"
            )
        if device.index not in (None, local):
            raise TrainingError(f"device '{device}': torchrun gives each process its GPU; ask for 'cuda' or 'auto'")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not distributed.is_initialized():  # a second time would wait for keys of the first for ever
        try:
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        except (RuntimeError, ValueError) as error:
            raise TrainingError(f"the processes that torchrun started do not find each other: {error}") from error
        atexit.register(distributed.destroy_process_group)
    return Processes(distributed.get_rank(), distributed.get_world_size()), device
