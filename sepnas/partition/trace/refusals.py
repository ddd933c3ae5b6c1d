"""Why ``torch.export`` refuses a module: the line of the module's code, and what to do about it."""

from __future__ import annotations

import linecache
import re
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

_TORCH = re.compile(r"[/\\](torch|torchgen|sympy)[/\\]")
_FRAME = re.compile(r'File "([^"\n]+)", line (\d{1,9}), in (\S+)')
_MAX_CHARACTERS = 160
_MAX_LINE_CHARACTERS = 100


@dataclass(frozen=True)
class Cause:
    """What a graph cannot express, how torch words it, and the remedy."""

    pattern: str
    meaning: str
    remedy: str

    def at(self, place: str) -> str:
        """The whole sentence."""
        return f"cannot be traced: {self.meaning}{f' ({place})' if place else ''}; {self.remedy}"


CONTROL_FLOW = Cause(
    r"[Cc]ontrol.?flow|Could not guard|GuardOnDataDependent|[Dd]ata.?dependent|\.item\(\)|bool\(",
    "its control flow depends on the values of tensors, which a graph cannot express",
    "choose with torch.where, or take the decision when the module is made",
)
DYNAMIC_SHAPES = Cause(
    r"[Dd]ynamic shape|unbacked|SymInt|specializ|DynamicOutputShape",
    "the shapes of its tensors depend on values, which a graph cannot express",
    "give these tensors a fixed size, such as by torch.topk, or by a product with a mask instead of a selection",
)
PLAIN_NUMBERS = Cause(
    r"\.numpy\(\)|\.tolist\(\)|_local_scalar_dense",
    "it takes numbers out of a tensor, which a graph cannot express",
    "compute with the tensor itself, by operators of torch",
)
_CAUSES = (CONTROL_FLOW, DYNAMIC_SHAPES, PLAIN_NUMBERS)


def why_not_exported(error: BaseException) -> str:
    """What is wrong, the last line outside of torch that was running, and the remedy or the error's first line."""
    text, place = f"{type(error).__name__}: {error}", place_of(error)
    for cause in _CAUSES:
        if re.search(cause.pattern, text):
            return cause.at(place)
    return f"cannot be traced by torch.export{f' ({place})' if place else ''}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """The type of an error and the first line of its text, shortened."""
    lines = str(error).strip().splitlines() or [""]
    line = " ".join(lines[0].split())
    short = line if len(line) <= _MAX_CHARACTERS else f"{line[:_MAX_CHARACTERS].rstrip()}..."
    return f"{type(error).__name__}: {short}" if short else type(error).__name__


def place_of(error: BaseException) -> str:
    """The innermost line of code that is not torch's, and its text; empty if there is none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_theirs(frame.filename)]
    return line_text(frames[-1].filename, frames[-1].lineno or 0, frames[-1].name) if frames else ""


def place_in(stack_trace: str | None) -> str:
    """The innermost line of a stack as torch keeps it with each operator; empty if there is none."""
    found = _FRAME.findall(stack_trace or "")
    return line_text(found[-1][0], int(found[-1][1]), found[-1][2]) if found else ""


def line_text(file: str, line: int, function: str) -> str:
    code = linecache.getline(file, line).strip()[:_MAX_LINE_CHARACTERS]
    return f"line {line} of {file}, in {function}{f': `{code}`' if code else ''}"


def _is_theirs(file: str) -> bool:
    own = str(Path(__file__).resolve().parent.parent)
    standard = str(Path(traceback.__file__).parent)
    in_library = file.startswith(standard) and "site-packages" not in file
    return not (_TORCH.search(file) or file.startswith((own, "<")) or in_library or file == sys.argv[0])
