"""Sliding windows along one axis: how many there are, and which inputs some of them cover."""

from __future__ import annotations

from dataclasses import dataclass

from sepnas.plan.kinds.kind import OperatorUse
from sepnas.plan.shapes import Range


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of ``kernel`` inputs, ``dilation`` apart, over ``size`` inputs between two paddings."""

    size: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0
    ceil: bool = False
    """Whether a last window may reach beyond the padding."""

    def __post_init__(self) -> None:
        if min(self.kernel, self.stride, self.dilation) < 1 or min(self.before, self.after) < 0:
            raise ValueError(f"kernel, stride and dilation must be at least 1, padding at least 0, got {self}")

    @property
    def reach(self) -> int:
        """The inputs from the first to the last of one window."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def count(self) -> int:
        """The number of windows; :class:`ValueError` if there is none."""
        room = self.size + self.before + self.after - self.reach
        found = (room + (self.stride - 1 if self.ceil else 0)) // self.stride + 1
        if self.ceil and (found - 1) * self.stride >= self.size + self.before:
            found -= 1
        if room < 0 or found < 1:
            raise ValueError(f"windows of {self.reach} do not fit into {self.size} inputs")
        return found

    @property
    def can_be_cut(self) -> bool:
        """Whether each window covers an input, so that any run of windows is computed from inputs of its own."""
        return self.before < self.reach and (self.count - 1) * self.stride - self.before < self.size

    @property
    def padding_share(self) -> float:
        """The share (0..1) of padding in what the windows cover."""
        firsts = range(-self.before, self.count * self.stride - self.before, self.stride)
        inputs = sum(0 <= first + tap * self.dilation < self.size for first in firsts for tap in range(self.kernel))
        return 1 - inputs / (self.count * self.kernel)

    def inputs(self, first: int, stop: int) -> tuple[Range, Range]:
        """The inputs that windows ``first`` to ``stop`` cover, and the padding on both sides of those inputs."""
        start, end = first * self.stride - self.before, (stop - 1) * self.stride - self.before + self.reach
        low, high = max(start, 0), min(end, self.size)
        return (low, high), (low - start, end - high)


def windows_of(use: OperatorUse, dims: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[Windows, ...]:
    """The windows along each spatial axis of an operand, from the attributes of a convolution or a pooling."""
    key = "windows", dims, kernel
    if key not in use.memo:
        use.memo[key] = _windows_of(use, dims, kernel)
    found: tuple[Windows, ...] = use.memo[key]
    return found


def _windows_of(use: OperatorUse, dims: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[Windows, ...]:
    count = len(kernel)
    stride = kernel if "kernel_size" in use.attributes and not use.get("stride") else use.per_axis("stride", count, 1)
    dilation, padding = use.per_axis("dilation", count, 1), paddings(use, count)
    return tuple(
        Windows(size, k, s, d, before, after, bool(use.get("ceil_mode", False)))
        for size, k, s, d, (before, after) in zip(dims[-count:], kernel, stride, dilation, padding, strict=True)
    )


def paddings(use: OperatorUse, count: int) -> tuple[tuple[int, int], ...]:
    """The padding before and after each spatial axis; the attribute has a number or a pair for each."""
    value = use.get("padding", 0)
    pairs = isinstance(value, list | tuple) and bool(value) and all(isinstance(each, list | tuple) for each in value)
    if not pairs:
        return tuple((each, each) for each in use.per_axis("padding", count, 0))
    if len(value) != count or not all(len(pair) == 2 and all(isinstance(n, int) for n in pair) for pair in value):
        raise ValueError(f"attribute `padding` must have {count} pairs of whole numbers, got {value!r}")
    return tuple((pair[0], pair[1]) for pair in value)


def is_even(padding: tuple[tuple[int, int], ...]) -> bool:
    """Whether each axis has the same padding on both sides, as ATen's operators take it."""
    return all(before == after for before, after in padding)


def pad_argument(padding: tuple[tuple[int, int], ...]) -> list[int]:
    """The argument of ATen's padding: pairs from the last axis to the first."""
    return [number for pair in reversed(padding) for number in pair]
