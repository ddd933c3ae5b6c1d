"""The memory of tensors on each device, as the simulator counts it: buffers of messages exist from the start.

What a run of computing reads lives until the run ends, at the next message; what it makes lives until its last use.
"""

from __future__ import annotations


class TensorMemory:
    """Per device: the bytes held now, the most so far, and what is released when its run of computing ends."""

    __slots__ = ("_arrived", "_held", "_late", "_made", "_runs", "most")

    def __init__(self, num_devices: int) -> None:
        self.most, self._held, self._late, self._runs = ([0] * num_devices for _ in range(4))
        self._made: dict[tuple[str, int], tuple[int, int]] = {}  # bytes, and the run that made them
        self._arrived: dict[tuple[str, int], int] = {}

    def copy(self) -> TensorMemory:
        other = object.__new__(TensorMemory)
        other.most, other._held, other._late, other._runs = self.most[:], self._held[:], self._late[:], self._runs[:]
        other._made, other._arrived = dict(self._made), dict(self._arrived)
        return other

    def receive(self, tensor: str, device: int, nbytes: int) -> None:
        """A message with a part of a tensor: its buffer was there at all times before."""
        self.end_run(device)
        self.most[device] += nbytes
        self._held[device] += nbytes
        self._arrived[tensor, device] = self._arrived.get((tensor, device), 0) + nbytes

    def make(self, tensor: str, device: int, nbytes: int) -> None:
        """Compute a part of a tensor."""
        held = self._held[device] = self._held[device] + nbytes
        if held > self.most[device]:
            self.most[device] = held
        before, _ = self._made.get((tensor, device), (0, 0))
        self._made[tensor, device] = before + nbytes, self._runs[device]

    def assemble(self, tensor: str, device: int, nbytes: int, last: bool) -> None:
        """Put the parts of a tensor together; those of its own are released too if this is the ``last`` use of them."""
        key = tensor, device
        own, _ = self._made.pop(key, (0, 0)) if last else (0, 0)
        self.make(tensor, device, nbytes)
        self._held[device] -= own + self._arrived.pop(key, 0)
        self.end_run(device)

    def end_run(self, device: int) -> None:
        """A message comes, or what was made is sent: what the run has read may go."""
        self._runs[device] += 1
        self._held[device] -= self._late[device]
        self._late[device] = 0

    def release(self, tensor: str) -> None:
        """Nobody reads a tensor any more."""
        for device, runs in enumerate(self._runs):
            nbytes, run = self._made.pop((tensor, device), (0, runs))
            if run == runs:
                self._held[device] -= nbytes
                nbytes = 0
            self._late[device] += nbytes + self._arrived.pop((tensor, device), 0)
