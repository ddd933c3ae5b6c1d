"""Measuring one contestant from where its client is: latency, throughput, bytes on the loopback, answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Row = dict[str, Any]
MEASURED_S, MIN_REQUESTS = 12.0, 20


@dataclass(frozen=True)
class Asking:
    """How a contestant is asked: ``ask`` takes ``(B, C, S, S)`` and gives the logits ``(B, classes)``.

    ``stream`` answers so many requests, several on their way at once, and says how many images a second that were.
    """

    ask: Callable[[Array], Array]
    batch: int = 1
    stream: Callable[[Array, int], float] | None = None
    facts: Row | None = None


def measure(asking: Asking, images: Array, expected: Array, requests: int, warmup: int) -> Row:
    """A row of the table: every image answered once and compared, then the first ones are asked again and again.

    That is ``requests`` times, or fewer where they take longer than ``MEASURED_S`` together.
    """
    batch = asking.batch
    answers = np.concatenate([asking.ask(images[first : first + batch]) for first in range(0, len(images), batch)])
    request = images[:batch]
    for _ in range(warmup):
        asking.ask(request)
    before, times_s = loopback_bytes(), []
    while len(times_s) < requests and (sum(times_s) < MEASURED_S or len(times_s) < MIN_REQUESTS):
        start = time.perf_counter()
        asking.ask(request)
        times_s.append(time.perf_counter() - start)
    crossed = loopback_bytes() - before
    requests = len(times_s)
    return {
        "batch": batch,
        "requests": requests,
        "latency_median_s": float(np.median(times_s)),
        "latency_p99_s": float(np.quantile(times_s, 0.99)),
        "images_per_s": asking.stream(request, requests) if asking.stream else batch * requests / sum(times_s),
        "loopback_bytes_per_image": crossed // (requests * batch),
        "largest_relative_difference": relative_difference(answers, expected),
        "answers_that_differ": int((answers.argmax(1) != expected.argmax(1)).sum()),
        **(asking.facts or {}),
    }


def relative_difference(found: Array, expected: Array) -> float:
    """The largest difference of two logits, relative to the largest logit."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def loopback_bytes() -> int:
    """What the loopback interface of this network namespace has carried, headers of TCP and IP with it."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[0])
    raise RuntimeError("/proc/net/dev names no loopback interface")
