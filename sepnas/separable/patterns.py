"""Communication patterns of an exchange point, and the named policies built from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from sepnas.errors import SpecError
from sepnas.plan.merge_rules import MergeRule
from sepnas.plan.wire import WireFormat
from sepnas.separable.policy import MAX_TRANSFERS, ExchangePoint, Lag, Readout, Transfer, TransmissionPolicy

Pairs = tuple[tuple[int, int], ...]


def ring(num_devices: int, shift: int) -> Pairs:
    """Rank r sends to rank ``r + shift`` (modulo the number of devices); with shift 0, nothing is sent."""
    return tuple((r, (r + shift) % num_devices) for r in range(num_devices) if shift % num_devices)


def swap(num_devices: int, distance: int = 1) -> Pairs:
    """Ranks exchange in pairs ``r <-> r xor distance``; a rank without a partner sends nothing."""
    return tuple((r, r ^ distance) for r in range(num_devices) if r ^ distance < num_devices)


def swap_pairs(text: str, num_devices: int) -> Pairs:
    """The pairs of ``0-1,2-3``: the ranks of each pair exchange; a rank that is not named sends nothing."""
    pairs = [tuple(int(rank) for rank in pair.split("-")) for pair in text.split(",")]
    ranks = [rank for pair in pairs for rank in pair]
    if len(set(ranks)) < len(ranks) or max(ranks) >= num_devices:
        raise SpecError(f"pattern 'swap:{text}' must name ranks of 0..{num_devices - 1}, each at most once")
    return tuple(sorted(pair for a, b in pairs for pair in ((a, b), (b, a))))


def matchings(ranks: Sequence[int]) -> list[Pairs]:
    """All ways to pair up the ranks; with an odd number of ranks, each way leaves one out."""
    if len(ranks) < 2:
        return [()]
    first, rest = ranks[0], list(ranks[1:])
    found = [((first, other), *more) for other in rest for more in matchings([r for r in rest if r != other])]
    return found + (matchings(rest) if len(ranks) % 2 else [])


def permutation(order: Sequence[int]) -> Pairs:
    """Rank r sends to ``order[r]``; a rank that maps to itself sends nothing."""
    if sorted(order) != list(range(len(order))):
        raise SpecError(f"a permutation names each rank once, got {tuple(order)}")
    return tuple((r, to) for r, to in enumerate(order) if r != to)


def star(num_devices: int, center: int = 0) -> Pairs:
    """Every other rank sends to ``center``."""
    return tuple((r, center) for r in range(num_devices) if r != center)


def all_to_all(num_devices: int) -> Pairs:
    """Every rank sends to every other."""
    return tuple((s, d) for s in range(num_devices) for d in range(num_devices) if s != d)


_PATTERN_HELP = (
    "none, all-to-all, ring:K, swap:K, swap:0-1,2-3, star:R, permutation:ABC... "
    "(one digit or comma-separated rank each)"
)
_SWAP_PAIRS = re.compile(r"\d+-\d+(,\d+-\d+)*")


def pattern_pairs(text: str, num_devices: int) -> Pairs:
    """The pairs of a pattern's short name, such as ``ring:2`` or ``permutation:1032``."""
    name, _, argument = text.partition(":")
    if name == "none" and not argument:
        return ()
    if name == "all-to-all" and not argument:
        return all_to_all(num_devices)
    if name == "permutation" and re.fullmatch(r"\d+(,\d+)*", argument):
        order = [int(rank) for rank in (argument.split(",") if "," in argument else argument)]
        if len(order) != num_devices:
            raise SpecError(f"pattern {text!r} names {len(order)} ranks, but there are {num_devices} devices")
        return permutation(order)
    if name == "swap" and _SWAP_PAIRS.fullmatch(argument):
        return swap_pairs(argument, num_devices)
    makers: dict[str, Callable[[int, int], Pairs]] = {"ring": ring, "swap": swap, "star": star}
    if name in makers and argument.isdecimal():
        number = int(argument)
        if number >= num_devices or (number == 0 and name != "star"):
            least = 0 if name == "star" else 1
            raise SpecError(f"pattern {text!r}: the number must lie in {least}..{num_devices - 1}")
        return makers[name](num_devices, number)
    raise SpecError(f"unknown pattern {text!r}; allowed: {_PATTERN_HELP}")


def point(
    after: int, pairs: Pairs, fraction: float = 1.0, wire: WireFormat = "fp32", lag: Lag = 0, merge: MergeRule = "mean"
) -> ExchangePoint:
    """An exchange point with equal settings for all of its transfers."""
    transfers = tuple(_transfer(source, destination, fraction, wire, lag) for source, destination in pairs)
    return ExchangePoint(after=after, transfers=transfers, merge=merge)


@lru_cache(maxsize=1 << 12, typed=True)
def _transfer(source: int, destination: int, fraction: float, wire: WireFormat, lag: Lag) -> Transfer:
    """A transfer, cached as one object for all points: dictionary lookups are faster for an identical object."""
    return Transfer(source=source, destination=destination, fraction=fraction, wire=wire, lag=lag)


def all_to_all_policy(num_devices: int, blocks_per_stage: Sequence[int]) -> TransmissionPolicy:
    """The paper's baseline: whole outputs, all to all, after every block; device 0 reads out.

    Raises :class:`SpecError` if that is more than ``MAX_TRANSFERS`` transfers.
    """
    pairs = all_to_all(num_devices)
    num_transfers = len(pairs) * sum(blocks_per_stage)
    if num_transfers > MAX_TRANSFERS:
        raise SpecError(
            f"policy 'all-to-all': {num_devices} devices would make {num_transfers:,} transfers after "
            f"{sum(blocks_per_stage)} blocks; a policy has at most {MAX_TRANSFERS:,}: name fewer devices, a network of "
            "fewer blocks, or another policy"
        )
    points = tuple(point(block, pairs) for block in range(sum(blocks_per_stage)) if pairs)
    return TransmissionPolicy(name="all-to-all", points=points)


def hand_made_policy(num_devices: int, blocks_per_stage: Sequence[int]) -> TransmissionPolicy:
    """The paper's hand-made policy: after each even block of a stage a ring shift, merged one block later.

    The shifts go 1, 2, ..., N-1, 1, 2, ... through the whole network (arXiv 2111.02489).
    An even block at the end of its stage has no exchange, because no block of the same shape follows.
    """
    points: list[ExchangePoint] = []
    first = 0
    for num_blocks in blocks_per_stage:
        for block in range(0, num_blocks - 1, 2):
            if num_devices > 1:
                shift = 1 + len(points) % (num_devices - 1)
                points.append(point(first + block, ring(num_devices, shift), lag=1))
        first += num_blocks
    return TransmissionPolicy(name="hand-made", points=tuple(points))


def no_exchange_policy(num_devices: int, blocks_per_stage: Sequence[int]) -> TransmissionPolicy:
    """No messages between blocks; the answer is the mean of the devices' logits."""
    return TransmissionPolicy(name="none", readout=Readout(kind="mean" if num_devices > 1 else "device"))


NAMED_POLICIES: dict[str, Callable[[int, Sequence[int]], TransmissionPolicy]] = {
    "all-to-all": all_to_all_policy,
    "hand-made": hand_made_policy,
    "none": no_exchange_policy,
}
