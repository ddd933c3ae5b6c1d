"""Names for the axes of traced tensors, one letter each."""

from __future__ import annotations

from collections.abc import Iterable

_BY_RANK = {0: "", 1: "N", 2: "NC", 3: "NCL", 4: "NCHW", 5: "NCTHW"}
_WEIGHT_BY_RANK = {0: "", 1: "O", 2: "OI", 3: "OIL", 4: "OIHW", 5: "OITHW"}
_SPARE = "LDEFGKMPQRSUVXYZABIJTWHCON"


def input_axes(rank: int) -> str:
    """The axes of a network's input by their number: samples, channels, and then time, height and width."""
    return _BY_RANK.get(rank) or with_spares("?" * rank)


def weight_axes(rank: int) -> str:
    """The axes of a weight: outputs, inputs, and those of the kernel."""
    return _WEIGHT_BY_RANK.get(rank, "") or with_spares("?" * rank)


def with_spares(names: Iterable[str]) -> str:
    """Names with a letter of its own in place of each ``?`` and of each repeated name."""
    wanted = list(names)
    found, taken = "", {name for name in wanted if name != "?"}
    for name in wanted:
        if name == "?" or name in found:
            name = next(each for each in _SPARE if each not in taken and each not in found)
        found += name
    return found
