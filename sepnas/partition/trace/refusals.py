"""Why ``torch.export`` refuses a module, in a sentence that names the line of the module's code."""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import Path

_TORCH = re.compile(r"[/\\](torch|torchgen|sympy)[/\\]")
_MAX_CHARACTERS = 300
_CAUSES = (
    (r"[Cc]ontrol.?flow|Could not guard|GuardOnDataDependent|[Dd]ata.dependent|\.item\(\)|bool\(", "control flow"),
    (r"[Dd]ynamic shape|unbacked|SymInt|specializ", "shapes that depend on values"),
)
_MEANING = {
    "control flow": "its control flow depends on the values of tensors, which a graph cannot express",
    "shapes that depend on values": "the shapes of its tensors depend on values, which a graph cannot express",
}


def why_not_exported(error: BaseException) -> str:
    """What is wrong, and the last line outside of torch that was running; the first line of torch's own message."""
    text = f"{type(error).__name__}: {error}"
    cause = next((_MEANING[name] for pattern, name in _CAUSES if re.search(pattern, text)), "")
    start = f"cannot be traced: {cause}" if cause else "cannot be traced by torch.export"
    place = place_of(error)
    first = " ".join(text.strip().splitlines()[0].split())[:_MAX_CHARACTERS]
    return f"{start}{f' ({place})' if place else ''}: {first}"


def place_of(error: BaseException) -> str:
    """The innermost line of code that is not torch's; empty if there is none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_theirs(frame.filename)]
    if not frames:
        return ""
    last = frames[-1]
    return f"line {last.lineno} of {last.filename}, in {last.name}"


def _is_theirs(file: str) -> bool:
    own = str(Path(__file__).resolve().parent.parent)
    standard = str(Path(traceback.__file__).parent)
    in_library = file.startswith(standard) and "site-packages" not in file
    return not (_TORCH.search(file) or file.startswith((own, "<")) or in_library or file == sys.argv[0])
