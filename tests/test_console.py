"""Progress on stderr where nobody watches."""

from __future__ import annotations

import pytest

from sepnas.console import step_bar


def test_an_export_that_nobody_watches_leaves_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """Off a terminal there is no bar that would stay as a stale line; only an export that takes long says something."""
    with step_bar("export") as show:
        show(1, 2, "device 0")
        show(2, 2, "device 1")
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
