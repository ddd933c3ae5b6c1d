"""Streaming: answers in order, while several requests are on their way."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TypeAlias

from sepnas.runtime.client.answer import Answer
from sepnas.runtime.client.inboxes import Arrival, Inbox
from sepnas.runtime.client.inputs import Inputs
from sepnas.runtime.client.reply import Reply
from sepnas.runtime.client.requests import Requests

Begin: TypeAlias = Callable[[Inputs, Inbox], Reply]


def stream_answers(requests: Requests, begin: Begin, batches: Iterable[Inputs], in_flight: int) -> Generator[Answer]:
    """The answer to each batch, in order, with up to ``in_flight`` requests on their way; ``begin`` sends one.

    The next batch is taken when an answer has been handed on. Requests that are on their way when this ends, by an
    error or by closing the generator, are abandoned.
    """
    window: deque[tuple[Reply, queue.SimpleQueue[Arrival]]] = deque()
    try:
        for batch in batches:
            inbox: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
            window.append((begin(batch, inbox), inbox))
            if len(window) == in_flight:
                yield requests.wait(*window.popleft())
        while window:
            yield requests.wait(*window.popleft())
    finally:
        requests.abandon_soon([reply for reply, _ in window])
