"""Whose turn it is on a wire that several messages want.

Turns must not depend on what links take: then every finish time is a (max, +) expression of what messages take, and
more bandwidth never makes anything later. In a network who comes first is first, which no such order tells exactly.
Two are tried, and the one that ends sooner is kept: the sooner of two such times still obeys the rule.
"""

from __future__ import annotations

from sepnas.cost.passage import Passage
from sepnas.cost.routes import Network
from sepnas.cost.times import alike
from sepnas.cost.work import Posted, Work


def take_turns(work: Work) -> Passage:
    """Play a request by tag, or as the devices come to it; ``work.messages`` then stand in the order that was kept.

    By tag is right where devices compute alike: the senders of a round of tags have all different receivers.
    """
    by_tag = _played(work)
    if work.plan.even and alike(work.cluster):
        return by_tag
    tags, work.messages = work.messages, as_devices_come(work)
    found = _played(work)
    if max(found.done_s) < max(by_tag.done_s):
        return found
    work.messages = tags
    return by_tag


def as_devices_come(work: Work) -> list[Posted]:
    """The messages in the order in which they would be posted if none took any time; at one moment by tag."""
    passage = Passage(work, _Instant())
    passage.play()
    return sorted(work.messages, key=lambda message: (passage.sent_s[message[0]], message[0]))


def _played(work: Work) -> Passage:
    passage = Passage(work, Network(work.cluster))
    passage.play()
    return passage


class _Instant:
    """Carries every message in no time."""

    def carry(self, pair: tuple[int, int], posted_s: float, payload_bytes: int) -> tuple[float, float]:
        return posted_s, posted_s
