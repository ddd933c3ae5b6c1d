"""Asking while something fails, and checking the answers."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from network import Deployed

from sepnas.errors import ExchangeError
from sepnas.runtime.client.session import Session

TIMEOUT_S = 0.5
HANGS_S = 5.0
"""A request or a recovery that takes longer hangs."""
TOLERANCE = 1e-3


@dataclass
class Case:
    """What was seen of one kind of fault."""

    name: str
    times: int = 0
    answered: int = 0
    degraded: int = 0
    checked: int = 0
    typed_errors: int = 0
    hung: int = 0
    wrong: int = 0
    detected_s: list[float] = field(default_factory=list)
    after_deadline_s: list[float] = field(default_factory=list)
    full_service_s: list[float] = field(default_factory=list)
    rejoin_s: list[float] = field(default_factory=list)

    def turns(self, times: int, num_devices: int) -> Iterator[int]:
        """The device whose turn it is, so many times, counted."""
        for number in range(times):
            self.times += 1
            yield number % num_devices

    def row(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            key: getattr(self, key)
            for key in ("name", "times", "answered", "degraded", "checked", "typed_errors", "hung", "wrong")
        }
        for key in ("detected_s", "after_deadline_s", "full_service_s", "rejoin_s"):
            values = getattr(self, key)
            if values:
                found[f"{key[:-2]}_p50_s"], found[f"{key[:-2]}_p99_s"] = map(float, np.quantile(values, (0.5, 0.99)))
        return found


class Asking:
    """Asks again and again, and checks the answers.

    A complete answer must be the whole network's; one without some devices, that of the network without them, once the
    answer before was without the same: until then some of their messages may have come.
    """

    def __init__(self, session: Session, deployed: Deployed, case: Case) -> None:
        self.session, self.deployed, self.case = session, deployed, case
        self._without_before: tuple[int, ...] = ()

    def ask(self) -> tuple[float, bool | Exception]:
        """Seconds that it took; whether the answer was complete, or the error."""
        start = time.monotonic()
        try:
            answer = self.session.ask(self.deployed.images, TIMEOUT_S)
        except ExchangeError as error:
            took_s, outcome = time.monotonic() - start, error
            self.case.typed_errors += 1
        else:
            took_s, outcome = time.monotonic() - start, answer.complete
            self.case.answered += answer.complete
            self.case.degraded += not answer.complete
            known = not answer.missing and answer.without == self._without_before
            if answer.complete or known:
                expected = self.deployed.logits_without(frozenset(answer.without))
                off = np.abs(answer.logits - expected).max()
                self.case.checked += 1
                self.case.wrong += not off <= TOLERANCE * max(1.0, np.abs(expected).max())
            self._without_before = answer.without
        self.case.hung += took_s > TIMEOUT_S + HANGS_S
        return took_s, outcome

    def until(self, wanted: Callable[[bool | Exception], bool]) -> tuple[float, float]:
        """When the first request ended whose outcome was wanted, and how long it took."""
        limit = time.monotonic() + HANGS_S
        while time.monotonic() < limit:
            took_s, outcome = self.ask()
            if wanted(outcome):
                return time.monotonic(), took_s
        self.case.hung += 1
        return time.monotonic(), HANGS_S


def is_complete(outcome: bool | Exception) -> bool:
    return outcome is True


def at_random(draw: random.Random, action: Callable[[], None]) -> tuple[threading.Thread, list[float]]:
    """Do it soon, at a moment that has nothing to do with a request; the list gets the time."""
    when: list[float] = []

    def act() -> None:
        time.sleep(draw.uniform(0, 0.03))
        when.append(time.monotonic())
        action()

    thread = threading.Thread(target=act)
    thread.start()
    return thread, when


def inject(asking: Asking, draw: random.Random, action: Callable[[], None]) -> float:
    """Do it while requests are asked; the seconds until the first answer or error that tells of it."""
    thread, when = at_random(draw, action)
    ended, took_s = asking.until(lambda outcome: outcome is not True)
    thread.join()
    asking.case.after_deadline_s.append(max(0.0, took_s - TIMEOUT_S))
    return ended - when[0]
