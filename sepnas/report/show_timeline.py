"""Shows time lines as bars in the terminal, as JSON, or as a file for Perfetto."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, TypeAlias

from sepnas.console import console, say
from sepnas.cost.timeline import Timeline
from sepnas.report.chrome_trace import chrome_trace
from sepnas.report.text_timeline import longest_steps, text_timelines
from sepnas.spec.document import write_text
from sepnas.tables import DataColumn, DataTable, print_table, text_column


def show_timelines(form: TimelineFormat, timelines: Sequence[Timeline], out: Path | None) -> None:
    """Print time lines, or write them to ``out``."""
    if form == "text":
        for line in text_timelines(timelines, console.width).splitlines():
            say(line)
        columns = (DataColumn(timeline.title) for timeline in timelines)
        table = DataTable((text_column("what took longest"), *columns))
        for what, *times in longest_steps(timelines):
            table.add(what, *times)
        print_table(table)
        return
    data = chrome_trace(timelines) if form == "chrome" else {"timelines": [asdict(each) for each in timelines]}
    if out is None:
        say(json.dumps(data))
        return
    write_text(out, json.dumps(data) + "\n")
    where = ": open it at ui.perfetto.dev or chrome://tracing" if form == "chrome" else ""
    say(f"written: {out}{where}")


TimelineFormat: TypeAlias = Literal["text", "json", "chrome"]
