"""What becomes of requests when devices are killed, frozen and restarted, and when strangers knock: each many times."""

from __future__ import annotations

import argparse
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from devices import Devices
from network import Deployed

from sepnas.errors import DeadlineError, ExchangeError, HandshakeError
from sepnas.plan.steps import CLIENT
from sepnas.report.recorder import Recorder
from sepnas.runtime.events import PROTOCOL_VERSION, Hello
from sepnas.runtime.identity import Identity
from sepnas.runtime.links import dial
from sepnas.runtime.session import Session

HERE = Path(__file__).resolve().parent
DEADLINE_S = 0.5
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
    judged: int = 0
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
            for key in ("name", "times", "answered", "degraded", "judged", "typed_errors", "hung", "wrong")
        }
        for key in ("detected_s", "after_deadline_s", "full_service_s", "rejoin_s"):
            values = getattr(self, key)
            if values:
                found[f"{key[:-2]}_p50_s"], found[f"{key[:-2]}_p99_s"] = map(float, np.quantile(values, (0.5, 0.99)))
        return found


class Asking:
    """Asks again and again, and judges the answers.

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
            answer = self.session.ask(self.deployed.images, DEADLINE_S)
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
                self.case.judged += 1
                self.case.wrong += not off <= TOLERANCE * max(1.0, np.abs(expected).max())
            self._without_before = answer.without
        self.case.hung += took_s > DEADLINE_S + HANGS_S
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
    asking.case.after_deadline_s.append(max(0.0, took_s - DEADLINE_S))
    return ended - when[0]


def killed_and_restarted(devices: Devices, deployed: Deployed, times: int, draw: random.Random) -> Iterator[Case]:
    """SIGKILL in a session that degrades; then the device is started again and must come back."""
    case = Case("killed, degrade, restarted")
    with Session(deployed.folder, devices.hosts, on_missing="degrade") as session:
        asking = Asking(session, deployed, case)
        asking.until(is_complete)
        for rank in case.turns(times, deployed.num_devices):
            case.detected_s.append(inject(asking, draw, lambda rank=rank: devices.signal(rank, signal.SIGKILL)))
            devices.reap(rank)
            asking.until(lambda outcome: outcome is False)
            started = time.monotonic()
            ready = devices.start(rank)
            ended, _ = asking.until(is_complete)
            case.full_service_s.append(ended - started)
            case.rejoin_s.append(ended - ready)
    yield case


def killed_strict(devices: Devices, deployed: Deployed, times: int, draw: random.Random) -> Iterator[Case]:
    """SIGKILL in a strict session: an error that names the device; a new session after the restart."""
    case = Case("killed, strict")
    for rank in case.turns(times, deployed.num_devices):
        with Session(deployed.folder, devices.hosts, on_missing="strict") as session:
            asking = Asking(session, deployed, case)
            asking.until(is_complete)
            case.detected_s.append(inject(asking, draw, lambda rank=rank: devices.signal(rank, signal.SIGKILL)))
        devices.reap(rank)
        devices.start(rank)
    yield case


def frozen(devices: Devices, deployed: Deployed, times: int, draw: random.Random) -> Iterator[Case]:
    """SIGSTOP, and SIGCONT after it was noticed; the same session goes on, strict and degraded."""
    for on_missing in ("strict", "degrade"):
        case = Case(f"frozen, {on_missing}")
        with Session(deployed.folder, devices.hosts, on_missing=on_missing) as session:
            asking = Asking(session, deployed, case)
            asking.until(is_complete)
            for rank in case.turns(times, deployed.num_devices):
                case.detected_s.append(inject(asking, draw, lambda rank=rank: devices.signal(rank, signal.SIGSTOP)))
                devices.signal(rank, signal.SIGCONT)
                thawed = time.monotonic()
                ended, _ = asking.until(is_complete)
                case.full_service_s.append(ended - thawed)
        yield case


def strangers(devices: Devices, deployed: Deployed, times: int, other: Deployed) -> Iterator[Case]:
    """Who does not belong to the deployment knocks while a session is at work."""
    own = Identity(deployed.folder / "client/tls", CLIENT, deployed.deployment_id)
    foreign = Identity(other.folder / "client/tls", CLIENT, other.deployment_id)
    good = Hello(deployment_id=deployed.deployment_id, rank=CLIENT, session="stranger")
    knocks = {
        "foreign certificate": (foreign, good),
        "other version": (own, good.model_copy(update={"protocol": PROTOCOL_VERSION + 1})),
        "other deployment": (own, good.model_copy(update={"deployment_id": other.deployment_id})),
        "another device's rank": (own, good.model_copy(update={"rank": 1})),
    }
    with Session(deployed.folder, devices.hosts, on_missing="strict") as session:
        for name, (identity, hello) in knocks.items():
            case = Case(name)
            asking = Asking(session, deployed, case)
            for rank in case.turns(times, deployed.num_devices):
                start = time.monotonic()
                try:
                    dial(rank, devices.hosts.address(rank), hello, identity, {}, start + DEADLINE_S).abort()
                    case.wrong += 1
                except HandshakeError:
                    case.typed_errors += 1
                except DeadlineError:
                    case.hung += 1
                case.detected_s.append(time.monotonic() - start)
                asking.ask()
            yield case


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=52, help="of each case; the devices take turns")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(1)
    draw = random.Random(chosen.seed)
    with (
        Recorder(HERE / "result.json", seeds=[chosen.seed], root=HERE) as record,
        tempfile.TemporaryDirectory(prefix="sepnas-faults-") as name,
    ):
        deployed, other = (
            Deployed(Path(name) / "deployment", chosen.seed),
            Deployed(Path(name) / "other", chosen.seed + 1),
        )
        cases: list[Case] = []
        with Devices(deployed.folder, deployed.num_devices) as devices:
            for found in (
                killed_and_restarted(devices, deployed, chosen.times, draw),
                killed_strict(devices, deployed, chosen.times, draw),
                frozen(devices, deployed, chosen.times, draw),
                strangers(devices, deployed, chosen.times, other),
            ):
                for case in found:
                    print(case.row(), flush=True)
                    cases.append(case)
        measure(record, cases)


def measure(record: Recorder, cases: list[Case]) -> None:
    record.table("faults", [case.row() for case in cases])
    record.measure(
        "faults_hung", sum(case.hung for case in cases), "", n=sum(case.times for case in cases), goal="<= 0"
    )
    record.measure(
        "faults_wrong", sum(case.wrong for case in cases), "", n=sum(case.times for case in cases), goal="<= 0"
    )
    for name, key, of, goal in (
        ("killed_detected_p99_s", "detected_s", "killed", "<= 0.05"),
        ("frozen_detected_p99_s_after_deadline", "after_deadline_s", "frozen", "<= 0.01"),
        ("rejoin_p99_s", "rejoin_s", "killed", "<= 2"),
    ):
        values = [value for case in cases if case.name.startswith(of) for value in getattr(case, key)]
        record.measure(name, float(np.quantile(values, 0.99)), "s", min(values), max(values), len(values), goal)


if __name__ == "__main__":
    main()
