"""Bounds on the memory of images: a system short of memory kills processes.

Whether a data set fits is checked before it is read, and fewer large images are computed at a time.
"""

from __future__ import annotations

import os
from pathlib import Path

from sepnas.errors import DataError

BATCH_PIXELS = 1 << 22
"""Pixels of the images that are computed at a time: 83 images of 224 x 224."""
_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def available_bytes() -> int | None:
    """Memory that this process may still allocate, swap included, in the machine or its container; None if unknown."""
    found = [count for count in (_of_machine(), *map(_of_container, _LIMITS)) if count is not None]
    return min(found, default=None)


def images_at_once(most: int, side: int, pixels: int = BATCH_PIXELS) -> int:
    """``most`` images, or fewer if they are large: feature maps take memory by the pixel."""
    return max(1, min(most, pixels // side**2))


def check_images_fit(count: int, channels: int, size: tuple[int, int], copies: int = 0, where: str = "") -> None:
    """Raise :class:`DataError`, beginning with ``where``, if images need more memory than is available.

    There are ``count`` of ``size`` (height, width in pixels), and ``copies`` of some of them.
    """
    height, width = size
    needed_bytes, present_bytes = (count + copies) * channels * height * width, available_bytes()
    if present_bytes is not None and needed_bytes > present_bytes:
        raise DataError(
            f"{where}{count:,} images of {width:,}x{height:,} pixels in {channels} channel{'s' * (channels != 1)} need "
            f"{_gigabytes(needed_bytes)} of memory, but only {_gigabytes(present_bytes)} are free; choose a smaller "
            "image size, or fewer images"
        )


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return 1024 * (kilobytes["MemAvailable"] + kilobytes.get("SwapFree", 0))
    except (OSError, ValueError, KeyError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):  # another system
        return None


def _of_container(names: tuple[str, str]) -> int | None:
    try:
        limit, used = (int((_CGROUP / name).read_text("ascii")) for name in names)
    except (OSError, ValueError):  # no such file, or no limit ("max")
        return None
    cached = _cached_bytes((_CGROUP / names[1]).with_name("memory.stat"))
    return max(0, limit - used + cached)


def _cached_bytes(stat: Path) -> int:
    """Bytes of cached files, which the kernel frees when memory is short."""
    try:
        fields = dict(line.split() for line in stat.read_text("ascii").splitlines())
        return int(fields.get("inactive_file", 0)) + int(fields.get("active_file", 0))
    except (OSError, ValueError):
        return 0


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
