"""The report: one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sepnas.report.content import ReportContent
from sepnas.report.sections import sections_of
from sepnas.spec.document import write_text
from sepnas.terminal import printable


def write_report(out_html: Path, content: ReportContent) -> Path:
    """Write the page atomically; raises :class:`StorageError` if it cannot be written."""
    return write_text(out_html, render_report(content))


def render_report(content: ReportContent) -> str:
    """The page as HTML; the same content gives the same text."""
    template = _environment().get_template("page.html.j2")
    return template.render(content=content, sections=sections_of(content)) + "\n"


def _shown(value: object) -> object:
    """Escape control characters in strings; markup is already escaped."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return printable(value)


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("sepnas.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
