"""How one process imitates a device of a cluster: the times of its steps, and the resources its messages occupy."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from sepnas.spec.document import Document, Part
from sepnas.spec.figures import MAX_DEVICES, Index, NotNegative, NumDevices, Positive, RankOrClient, Sha256, Size

HOUR_S = 3600.0
Duration = Annotated[float, Field(ge=0, le=HOUR_S)]
Shaping = Literal["process", "netns"]


class EmulatedThreads(Part):
    """The time a message takes in the sender's writer thread and the receiver's reader; ``reader`` is a resource."""

    write_message_s: Duration
    write_byte_s: Duration
    reader: Index
    read_message_s: Duration
    read_byte_s: Duration


class EmulatedLink(Part):
    """The path of this process's messages to ``peer``; -1 is the client.

    A message waits for the messages that this process posted earlier into the same ``queue`` (a port, a radio, a
    cable), and then until the ``resources``, which all processes share, are free. It then holds the resources
    exclusively for ``message_overhead_s`` plus its bytes at ``bandwidth_bytes_per_s``. With ``buffered`` it leaves its
    queue after that time even if it still waits for a port at the switch's other end. Then it travels for
    ``latency_s`` plus an exponentially distributed delay of mean ``jitter_s``.
    """

    peer: RankOrClient
    bandwidth_bytes_per_s: Positive
    latency_s: Duration = 0.0
    jitter_s: Duration = 0.0
    message_overhead_s: Duration = 0.0
    queue: Index = 0
    buffered: bool = False
    resources: Annotated[tuple[Index, ...], Field(max_length=MAX_DEVICES**2)] = ()
    threads: EmulatedThreads | None = None

    def used(self) -> tuple[int, ...]:
        """The numbers of all resources, those of threads included."""
        return (*self.resources, *(() if self.threads is None else (self.threads.reader,)))


class Emulation(Document):
    """The figures for one device of a deployment, or for its client (rank -1, which has no steps).

    ``steps_s`` are the seconds of each step of the device's program in ``plan`` for a request of ``batch`` samples,
    scaled in proportion for other batches; a step with None or 0 is not slowed down. The time of a segment is
    multiplied by a lognormal factor of mean 1 and standard deviation ``jitter``. ``clock`` is a file that all processes
    of the emulation share; it records when each of ``num_resources`` resources is free. With ``shaping: netns`` the
    kernel shapes the links too: a message that it has delivered is still delayed by its latency.
    """

    format_name: ClassVar[str] = "sepnas.emulation"

    deployment_id: Sha256
    rank: RankOrClient
    num_devices: NumDevices
    plan: Annotated[str, Field(min_length=1, max_length=64)] = "default"
    batch: Size = 1
    steps_s: tuple[Duration | None, ...] = ()
    jitter: NotNegative = 0.0
    links: Annotated[tuple[EmulatedLink, ...], Field(max_length=MAX_DEVICES + 1)] = ()
    clock: Annotated[str, Field(min_length=1)]
    num_resources: Annotated[int, Field(ge=0, le=1 << 16)]
    shaping: Shaping = "process"
    seed: Index = 0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.rank >= self.num_devices:
            raise ValueError(f"`rank` is {self.rank}, but the ranks are 0..{self.num_devices - 1}")
        peers = [link.peer for link in self.links]
        for index, link in enumerate(self.links):
            if link.peer == self.rank or not -1 <= link.peer < self.num_devices or peers.count(link.peer) > 1:
                raise ValueError(f"`links.{index}.peer` must be another rank, each once, got {link.peer}")
            if any(resource >= self.num_resources for resource in link.used()):
                raise ValueError(
                    f"`links.{index}` has resources that must lie below {self.num_resources} (`num_resources`)"
                )
        return self
