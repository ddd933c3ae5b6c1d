"""Training with several processes, one per GPU, started by ``torchrun``.

Each process takes a part of every batch, and gradients are averaged. A step thus equals a step on the whole batch,
except for batch norms, which see only their process's images, and for draws within the step. The first process writes.
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
    """The rank of this process and the number of processes; 0 and 1 without ``torchrun``."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @property
    def first(self) -> bool:
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """This process's share of the rows of a batch."""
        return batch.tensor_split(self.count)[self.rank] if self.count > 1 else batch

    def seed(self, seed: int) -> int:
        """A different seed in each process; in the first, the given one."""
        return (seed + self.rank) % 2**63

    def mean_loss(self, loss: Tensor, part: int, batch: int) -> Tensor:
        """Scale a loss so that its gradients, averaged over the processes, are those of the whole batch."""
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
        """Average the gradients over the processes; missing ones count as 0.

        A parameter without a gradient in any process therefore decays, unlike with a single process.
        """
        if self.count == 1:
            return
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.average([parameter.grad for parameter in parameters if parameter.grad is not None])

    def average_statistics(self, network: nn.Module) -> None:
        """Average the running means and variances of batch norms over the processes."""
        self.average([buffer for buffer in network.buffers() if buffer.is_floating_point()])

    def check_equal(self, what: str, value: float) -> None:
        """Raise :class:`TrainingError` in a process whose value differs from the first process's."""
        first = self.broadcast(value)
        if value != first:
            raise TrainingError(
                f"process {self.rank} begins with {what} {value:g}, the first one with {first:g}; all of them must "
                "read the same data and write to the same folder"
            )

    def broadcast(self, value: float) -> float:
        """The first process's value, broadcast to all."""
        if self.count == 1:
            return value
        kind = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        box = torch.tensor(value, dtype=torch.float64, device=kind)
        with _others_there(self.rank):
            distributed.broadcast(box, 0)
        return float(box)


@contextmanager
def _others_there(rank: int) -> Iterator[None]:
    """Convert the error of a collective call with a lost process into :class:`TrainingError`."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"process {rank} has lost another of this training, which failed or was killed: look for its own words "
            f"above, or torchrun's below; {ADVICE} ({str(error).splitlines()[0]})"
        ) from error


def is_alone() -> bool:
    """Whether this process trains alone, not under ``torchrun``; ignores the variables of other launchers."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1"


def is_first() -> bool:
    """Whether this process is alone or the first of several, which prints and writes."""
    return is_alone() or os.environ.get("RANK") == "0"


def processes_of(device: torch.device) -> tuple[Processes, torch.device]:
    """Join the process group of ``torchrun``, if any, until this process ends; on CUDA, each process takes one GPU.

    Raises :class:`TrainingError` if there are more processes than GPUs, or if they cannot connect.
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
    if not distributed.is_initialized():  # a second initialisation would wait forever for keys of the first
        try:
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        except (RuntimeError, ValueError) as error:
            raise TrainingError(f"the processes that torchrun started cannot connect to each other: {error}") from error
        atexit.register(distributed.destroy_process_group)
    return Processes(distributed.get_rank(), distributed.get_world_size()), device
