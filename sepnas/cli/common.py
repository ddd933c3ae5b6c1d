"""What the commands share: how numbers look, and where things are printed."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console

console = Console(soft_wrap=False, highlight=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2))


def number(value: float) -> str:
    """1234567 as 1,234,567."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def seconds(value: float) -> str:
    """A time at a readable scale."""
    if value >= 1:
        return f"{value:.2f} s"
    return f"{1e3 * value:.2f} ms" if value >= 1e-3 else f"{1e6 * value:.0f} us"
