"""Options that several verbs share: parsers of values, single options and groups of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from sepnas.console import errors
from sepnas.deployment.manifest import OnMissing
from sepnas.errors import SpecError
from sepnas.plan.merge_rules import MERGE_RULES
from sepnas.plan.plan import Plan
from sepnas.plan.wire import LEVELS, WIRE_FORMATS
from sepnas.results.provenance import command_line
from sepnas.runtime.client.images import Resize
from sepnas.runtime.client.limits import MAX_TIMEOUT_S
from sepnas.separable.architecture import Architecture
from sepnas.separable.backbones.registry import BACKBONES
from sepnas.separable.patterns import NAMED_POLICIES
from sepnas.separable.read import ArchitectureOptions, read_architecture, read_plan
from sepnas.separable.stems.registry import STEMS
from sepnas.spec.arguments import MAX_COUNT, MAX_THREADS
from sepnas.spec.cluster import Cluster
from sepnas.spec.figures import Fit
from sepnas.spec.recognise import WORDS, Kind, recognise
from sepnas.terminal import one_line
from sepnas.train.recipe import RecipeChanges
from sepnas.train.source import DataSource
from sepnas.units import format_names, parse_bytes, parse_seconds, parse_timeout


def text_of(text: str) -> str:
    """The text of an option; empty text (an unset shell variable) is refused."""
    if not text:
        raise typer.BadParameter("is empty")
    return text


def path_of(text: str) -> Path:
    """A path; an empty one, which Python reads as the current folder, is refused.

    ``~`` is expanded here too, because a shell does not expand it in ``--out=~/x``.
    """
    try:
        return Path(text_of(text)).expanduser()
    except RuntimeError:  # of a user that there is not
        return Path(text)


def path_to(*kinds: Kind) -> Callable[[str], Path]:
    """A parser of paths to the given kinds; files and folders of another kind are refused by kind."""

    def path(text: str) -> Path:
        found = path_of(text)
        known = recognise(found)
        if known and known[0] not in kinds:
            raise typer.BadParameter(f"{one_line(str(found))} is {known[1]}; name {WORDS[kinds[0]]}")
        return found

    return path


def quantity(parse: Callable[[str], float]) -> Callable[[str | float], float]:
    """The parser of an option; typer passes it the default as well, which is already a number."""

    @wraps(parse)
    def read(text: str | float) -> float:
        return text if isinstance(text, float) else parse(text)

    return read


size_bytes, time_s = quantity(parse_bytes), quantity(parse_seconds)
timeout_s = quantity(lambda text: parse_timeout(text, MAX_TIMEOUT_S))


MAX_DEVICES = 1000
"""Upper bound of an option, like those of `sepnas.spec.arguments`: a larger number is a typing mistake."""
TEXT: dict[str, Any] = {"parser": text_of, "metavar": "TEXT"}
SOON_DAYS = 30
"""Certificates that end within this number of days are highlighted."""
PATH: dict[str, Any] = {"parser": path_of, "metavar": "PATH"}
FILE: dict[str, Any] = {"parser": path_to("file"), "metavar": "FILE"}
FOLDER: dict[str, Any] = {"parser": path_of, "metavar": "FOLDER"}


def cluster_to_predict_with(path: Path) -> Cluster:
    """A cluster file; warns if its devices were measured with another version of the engine."""
    from sepnas.measure.machine import warn_of_another_engine

    cluster = Cluster.load(path)
    warn_of_another_engine(cluster)
    return cluster


@contextmanager
def resumable(folder: Path, marker: str) -> Iterator[None]:
    """On Ctrl-C, print how to resume if the file ``marker`` in ``folder`` shows that there is something to resume."""
    try:
        yield
    except KeyboardInterrupt:
        if not (folder / marker).exists():
            raise
        command = command_line()
        command += "" if "--resume" in command.split() else " --resume"
        errors.print(one_line(f"interrupted; completed work is kept in {folder}; resume with: {command}"))
        raise typer.Exit(130) from None


DataRoot = Annotated[Path | None, typer.Option(help="Folder of torchvision's data sets [~/.cache/sepnas].", **PATH)]


@dataclass(frozen=True)
class DataOptions:
    """A data set, and how its images are made to fit the network."""

    data: Annotated[
        str | None,
        typer.Option("--data", help="digits, cifar10, cifar100, fashion-mnist or folder:PATH [digits].", **TEXT),
    ] = None
    data_root: DataRoot = None
    download: Annotated[bool, typer.Option("--download", help="Download a missing data set through torchvision.")] = (
        False
    )
    image_size: Annotated[
        int | None, typer.Option(min=4, help="Resize the images to this width and height in pixels.")
    ] = None
    resize: Annotated[
        Fit,
        typer.Option("--resize", help="With --image-size: stretch the whole image, or crop its centre square."),
    ] = "stretch"

    @property
    def source(self) -> DataSource:
        return DataSource(self.data, self.data_root, self.image_size, self.resize, self.download)


@dataclass(frozen=True)
class RecipeOptions:
    """Values that replace those of a recipe."""

    learning_rate: Annotated[
        float | None, typer.Option(metavar="RATE", help="Peak learning rate, instead of the recipe's.")
    ] = None
    device_dropout: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Train every image without this share of the devices, drawn anew, so that devices may be lost later; "
            "0.1 to 0.25 [the recipe's, which is 0].",
        ),
    ] = None
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip",
            help="Mirror half of the training images [the recipe's choice; without a recipe not for folders].",
        ),
    ] = None

    def with_epochs(self, epochs: int | None) -> RecipeChanges:
        return RecipeChanges(epochs, self.learning_rate, self.device_dropout, self.flip)


@dataclass(frozen=True)
class ComputeOptions:
    """Where torch computes."""

    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto"
    threads: Annotated[
        int | None, typer.Option(min=1, max=MAX_THREADS, help="Threads of torch [1 for small networks, otherwise all].")
    ] = None


@dataclass(frozen=True)
class MessageOptions:
    """The wire format of all messages, the scales of those that are quantised, and how they are merged."""

    wire: Annotated[
        str | None,
        typer.Option(help=f"Wire format of all messages: {format_names(WIRE_FORMATS)} [the policy's choice]."),
    ] = None
    learned_scales: Annotated[
        bool | None,
        typer.Option(
            "--learned-scales/--own-scales",
            help=f"{format_names(LEVELS, 'and')}: the step is trained and messages carry levels only, or each message "
            "carries its samples' ranges, 8 bytes a sample [as the policy says].",
        ),
    ] = None
    merge: Annotated[
        str | None,
        typer.Option(
            help=f"How all messages are merged: {format_names(MERGE_RULES)} (learned weights for each channel that "
            "arrives) [as the policy says]."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """How to build and cut a named network, and its messages."""

    devices: Annotated[
        int | None,
        typer.Option("--devices", "-n", min=1, max=MAX_DEVICES, help="Number of devices to separate the network over."),
    ] = None
    policy: Annotated[str | None, typer.Option(help=f"{', '.join(NAMED_POLICIES)}, or a policy file [all-to-all].")] = (
        None
    )
    classes: Annotated[int | None, typer.Option(min=2, help="Number of classes [100].")] = None
    image_size: Annotated[int | None, typer.Option(min=4, help="Side of the images in pixels [32].")] = None
    stem: Annotated[
        str | None,
        typer.Option(help=f"First layers: {format_names(STEMS)} [those of the family for the image size].", **TEXT),
    ] = None
    messages: MessageOptions

    def architecture(self, name: str) -> Architecture:
        """The architecture of a name or of a file; raises :class:`SpecError`."""
        return read_architecture(name, self._options())

    def plan(self, name: str) -> Plan:
        """The plan of a name, of an architecture's file or of a plan file; raises :class:`SpecError`."""
        return read_plan(name, self._options())

    def refuse_for(self, what: str) -> None:
        """Raise typer's ``BadParameter`` for the first given option, which does not apply to ``what``."""
        for name in self._options().given():
            raise typer.BadParameter(f"does not apply to {what}", param_hint=name)

    def _options(self) -> ArchitectureOptions:
        return ArchitectureOptions(
            devices=self.devices, policy=self.policy, classes=self.classes, image_size=self.image_size,
            stem=self.stem, wire=self.messages.wire, learned_scales=self.messages.learned_scales,
            merge=self.messages.merge,
        )  # fmt: skip


Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of weights, data order and sampling.")]


Resume = Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")]


_NAMES = f"A name such as {format_names(kind.example for kind in BACKBONES.values())}"
NameOrFile = Annotated[str, typer.Argument(help=f"{_NAMES}; or an architecture file.")]
NameOrNetwork = Annotated[
    str, typer.Argument(help=f"{_NAMES}; an architecture file, or the folder of an imported network.")
]
NameOrPlan = Annotated[str, typer.Argument(help=f"{_NAMES}; an architecture file, or a plan.")]
NameOrAny = Annotated[
    str, typer.Argument(help=f"{_NAMES}; an architecture file, a plan, an imported network, or a deployment.")
]


PLAN_CONTENT = "another network's plan"
ReplacePlan = Annotated[bool, typer.Option("--force", help="Replace an existing plan file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


Out = Annotated[Path | None, typer.Option(help="Write the time line (json, chrome) to this file.", **FILE)]


def load_cluster(path: Path, plan: Plan, architecture: Path) -> Cluster:
    """A cluster that has the devices and links of the plan; :class:`SpecError` names what is missing."""
    cluster = cluster_to_predict_with(path)
    if cluster.num_devices < plan.num_devices:
        raise SpecError(
            f"{path}: field `devices`: has {cluster.num_devices}, but {architecture} needs {plan.num_devices}"
        )
    return cluster


def refuse_text_file(timeline: str | None, out: Path | None) -> None:
    """Raise typer's ``BadParameter`` for a file of text bars: bars have the width of the terminal."""
    if out is not None and timeline not in ("json", "chrome"):
        raise typer.BadParameter("needs --timeline json or chrome", param_hint="--out")


Deployment = Annotated[
    Path, typer.Argument(parser=path_to("deployment"), help="The deployment's folder, from `sepnas export`.")
]


PlanChoice = Annotated[str | None, typer.Option("--plan", help="A plan of the deployment [its default one].", **TEXT)]


HostsFile = Annotated[Path | None, typer.Option("--devices", parser=path_of, help="hosts.yaml [the deployment's own].")]


Deadline = Annotated[
    float,
    typer.Option(parser=timeout_s, metavar="TIME", help="Time until an answer or an error: seconds, or such as 100ms."),
]


Top = Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Number of classes to show for each image.")]


ResizeChoice = Annotated[
    Resize | None,
    typer.Option(
        help="Images of another size: refuse, crop or stretch [as in training, or as the network's configuration says]."
    ),
]


OnMissingChoice = Annotated[
    OnMissing | None,
    typer.Option(help="When a message is late or a device is lost: an error, or an answer without it [as exported]."),
]


HostNames = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="A host name for HTTP clients, besides this machine's addresses; repeat for more."
    ),
]


Insecure = Annotated[
    bool, typer.Option("--insecure", help="Plain TCP without TLS; on this machine's own addresses only.")
]


SearchFolder = Annotated[
    Path,
    typer.Argument(parser=path_to("search"), help="The folder of a search, finished or not."),
]
