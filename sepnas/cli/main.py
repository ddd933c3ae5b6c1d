"""The command ``sepnas``: its verbs, and how errors are printed."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

import sepnas
from sepnas.cli import (
    bench,
    calibrate,
    certs,
    cluster,
    demo,
    describe,
    evaluate,
    explore,
    export,
    front,
    import_network,
    infer,
    partition,
    pick,
    plan,
    profile,
    profile_device,
    profile_links,
    report,
    results,
    schema,
    search,
    separate,
    serve,
    simulate,
    status,
    trace,
    train,
    worker,
)
from sepnas.console import errors, fail, say, warn
from sepnas.deployment.engines.registry import engines
from sepnas.errors import SepnasError
from sepnas.options import command_line
from sepnas.spec.files import why
from sepnas.terminal import one_line, printable


@contextmanager
def _escaped_usage_errors() -> Iterator[None]:
    """Escape control characters in Typer's messages, which quote the command line, file names included.

    Some versions of Typer prefix messages about invalid values with "Value error, "; the prefix is removed.
    """
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message") and isinstance(getattr(error, "message", None), str):
            error.message = one_line(error.message.removeprefix("Value error, "))  # type: ignore[attr-defined]
        raise


class Verbs(TyperGroup):
    """The group of all verbs; usage errors hold no control characters, and messages name options by their flags."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with command_line(), _escaped_usage_errors():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        with command_line(), _escaped_usage_errors():
            return super().invoke(ctx)


HELP = """Search, train and ship neural networks that are separable over several small devices.

Example: `sepnas demo` runs all steps on handwritten digits in a minute or two.
"""

app = typer.Typer(
    name="sepnas",
    cls=Verbs,
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _say_version(wanted: bool) -> None:
    if wanted:
        say(f"sepnas {sepnas.__version__}")
        raise typer.Exit


@app.callback(help=HELP)
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


_PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "Look": {
        "describe": describe.describe,
        "simulate": simulate.simulate_command,
        "plan": plan.plan,
        "trace": trace.trace,
        "cluster": cluster.cluster,
        "schema": schema.schema,
    },
    "Find and train": {
        "search": search.search,
        "front": front.front,
        "pick": pick.pick,
        "train": train.train,
        "import": import_network.import_network,
        "partition": partition.partition,
        "separate": separate.separate,
        "explore": explore.explore,
        "export": export.export,
    },
    "Run": {
        "worker": worker.worker,
        "infer": infer.infer,
        "status": status.status,
        "bench": bench.bench,
        "evaluate": evaluate.evaluate,
        "serve": serve.serve,
        "calibrate": calibrate.calibrate_command,
    },
    "Show": {"report": report.report, "results": results.results, "demo": demo.demo},
}

_PROFILE: dict[str, Callable[..., None]] = {
    profile.DEFAULT: profile.profile,
    "device": profile_device.device_command,
    "links": profile_links.links_command,
}
"""The verbs below `profile`."""

_CERTS: dict[str, Callable[..., None]] = {"renew": certs.renew, "show": certs.show}
"""The verbs below `certs`."""


def _interruptible(function: Callable[..., None]) -> Callable[..., None]:
    """The verb with exit code 130 on Ctrl-C, before Typer prints "Aborted"."""

    @wraps(function)
    def run(*args: Any, **options: Any) -> None:
        try:
            function(*args, **options)
        except KeyboardInterrupt:
            errors.print("interrupted")
            raise typer.Exit(130) from None

    return run


for _panel, _verbs in _PANELS.items():
    for _verb, _function in _verbs.items():
        app.command(_verb, rich_help_panel=_panel)(_interruptible(_function))

_profile_app = typer.Typer(name="profile", cls=profile.ProfileGroup, help=profile.HELP)
for _verb, _function in _PROFILE.items():
    _profile_app.command(_verb)(_interruptible(_function))
app.add_typer(_profile_app, rich_help_panel="Run")

_certs_app = typer.Typer(name="certs", help=certs.HELP, no_args_is_help=True)
for _verb, _function in _CERTS.items():
    _certs_app.command(_verb)(_interruptible(_function))
app.add_typer(_certs_app, rich_help_panel="Run")

_EXTRAS = {
    **dict.fromkeys(
        ("cryptography", "onnx", "onnxscript", "scipy", "sklearn", "tensorboard", "threadpoolctl", "torchvision"),
        "train",
    ),
    **dict.fromkeys(("moocore", "nni", "optuna", "pytorch_lightning"), "search"),
    **dict.fromkeys(("jinja2", "markupsafe", "matplotlib"), "report"),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn"), "serve"),
    **{kind.package: kind.extra for kind in engines().values() if kind.light},
    "prometheus_client": "metrics",
    "onnx2pytorch": "onnx",
}
"""The extra that installs a module; the base install is for devices."""

VERBS = frozenset(verb for verbs in _PANELS.values() for verb in verbs) | {"certs", "profile"}


def main() -> None:
    """Run the command line.

    Exit codes: 0 for success, 1 for an error with a message, 2 for an invalid command line, 130 after Ctrl-C, 143 after
    SIGTERM.
    """
    # Before torch is loaded: idle threads that spin would starve all other processes of a small machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that child processes and temporary files go
    warnings.showwarning = _show_warning
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for terminals that lack some characters
    with suppress(AttributeError, OSError, ValueError):  # there may be no stderr
        faulthandler.enable()
    try:
        _run()
    except SepnasError as error:
        fail(_told(error))
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra = _extra_with(error.name or "")
        if extra is None:
            _show_traceback()
        else:
            fail(f"this needs {error.name}, which is not installed: pip install 'sepnas[{extra}]'")
        sys.exit(1)
    except BrokenPipeError:
        # The reader (`| head`) has left: do not fail again when Python flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _tell_of(error)
        sys.exit(1)
    except Exception:
        _show_traceback()
        sys.exit(1)


def _run() -> None:
    """Run the verb and flush stdout: a write error is reported here, and not by Python at exit."""
    try:
        app()
    finally:
        sys.stdout.flush()


def _open_streams() -> None:
    """Open closed streams (`>&-`) on the null device: otherwise the next opened file would become stdout."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _tell_of(error: OSError) -> None:
    if error.filename is not None:
        fail(f"{os.fsdecode(error.filename)}: {why(error, error.filename)}")
    elif error.errno in _FULL:  # it is stdout: sepnas' own files raise StorageError
        with contextlib.suppress(OSError):
            fail(f"stdout cannot be written: {error.strerror}; what was printed is incomplete")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        _show_traceback()


_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF))


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning; sepnas' own without their place in the code."""
    if f"{os.sep}sepnas{os.sep}" in filename or category.__module__.startswith("sepnas."):
        warn(str(message))
    else:
        errors.print(warnings.formatwarning(message, category, filename, lineno), end="")


def _show_traceback() -> None:
    """Print the traceback of a bug; control characters in its message are escaped."""
    sys.stderr.write(printable(traceback.format_exc()))


def _extra_with(module: str) -> str | None:
    """The extra that installs a module; for a worker, torch alone is enough."""
    top = module.partition(".")[0]
    if top == "torch" and (sys.argv[1:2] == ["worker"] or sys.argv[1:3] == ["profile", "device"]):
        return "torch"
    extra = "train" if top == "torch" else _EXTRAS.get(top)
    # A whole search also needs the extra `search` later: name that one at once.
    searches = sys.argv[1:2] in (["search"], ["explore"]) and "--supernet-only" not in sys.argv
    return "search" if extra == "train" and searches else extra


def _told(error: SepnasError) -> str:
    return "\n".join((str(error), *getattr(error, "__notes__", ())))
