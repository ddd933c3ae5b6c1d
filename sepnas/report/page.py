"""The report: one HTML page that needs nothing from anywhere else."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from sepnas.report.content import ReportContent
from sepnas.report.sections import sections_of
from sepnas.spec.document import write_text


def write_report(out_html: Path, content: ReportContent) -> Path:
    """Write the page; raises :class:`StorageError` when it cannot be written, and leaves nothing half-written."""
    return write_text(out_html, render_report(content))


def render_report(content: ReportContent) -> str:
    """The page as text; the same content gives the same text."""
    template = _environment().get_template("page.html.j2")
    return template.render(content=content, sections=sections_of(content)) + "\n"


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("sepnas.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
