"""The report page in a real browser: clicks, sorting, narrow screens."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sepnas.report.page import render_report
from tests.report.test_report import whole

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install the package chromium"),
]

DRIVE = """
<script>
(() => {
  const found = {};
  const mark = document.querySelector('[id^="front-payload-front"] .mark[data-key="candidate-21"]');
  mark.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  found.picked = document.querySelector("#pick code").textContent;
  found.shown = !document.querySelector("#pick").hidden;
  dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
  found.hidden = document.querySelector("#pick").hidden;
  mark.focus();
  found.focused = document.activeElement === mark;
  mark.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true }));
  found.byKey = !document.querySelector("#pick").hidden;
  const table = [...document.querySelectorAll("#front table")].pop();
  const column = (name) => {
    const heads = [...table.tHead.rows[0].cells];
    const place = heads.findIndex((head) => head.textContent.startsWith(name));
    heads[place].querySelector("button").click();
    const cells = [...table.tBodies[0].rows].map((row) => row.cells[place].textContent);
    return [heads[place].getAttribute("aria-sort"), cells];
  };
  found.rising = column("payload");
  found.falling = column("payload");
  found.candidates = column("candidate");
  found.latencies = column("latency");
  const page = document.documentElement;
  found.width = [page.scrollWidth, innerWidth];
  found.figures = [...document.querySelectorAll("figure svg")].map((svg) => svg.getBoundingClientRect().width);
  const boxes = [...document.querySelectorAll("#front .scroll:has(table)")];
  found.cut = boxes.filter((box) => box.scrollWidth > box.clientWidth).length;
  found.requests = performance.getEntriesByType("resource").length;
  const said = document.createElement("pre");
  said.id = "found";
  said.textContent = JSON.stringify(found);
  document.body.append(said);
})();
</script>
"""


def drive(page: str, folder: Path, width: int) -> dict[str, Any]:
    """What the page's elements did when they were clicked in a window of so many pixels."""
    path = folder / "page.html"
    path.write_text(page.replace("</body>", f"{DRIVE}</body>"), encoding="utf-8")
    browser = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    asked = [*browser, f"--window-size={width},900", "--dump-dom", path.as_uri()]
    run = subprocess.run(asked, capture_output=True, text=True, timeout=170, check=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', run.stdout, re.DOTALL)
    assert found is not None, run.stderr
    data: dict[str, Any] = json.loads(html.unescape(found[1]))
    return data


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_works_in_a_browser(width: int, tmp_path: Path) -> None:
    """A point shows its command on a click and by the keyboard, headings sort, and the page never scrolls sideways."""
    content = replace(whole(), pick="sepnas pick 'a run' --out architecture.json --candidate")
    found = drive(render_report(content), tmp_path, width)
    assert found["picked"] == "sepnas pick 'a run' --out architecture.json --candidate 21"
    assert [found[name] for name in ("shown", "hidden", "focused", "byKey")] == [True] * 4
    (rising, values), (falling, reverse) = found["rising"], found["falling"]
    assert (rising, falling) == ("ascending", "descending")
    counts = [int(value.replace(",", "")) for value in values]
    assert counts == sorted(counts)
    assert reverse == values[::-1]
    assert [int(text) for text in found["candidates"][1]] == sorted(int(text) for text in found["candidates"][1])
    latencies = [float(text.split()[0]) for text in found["latencies"][1]]
    assert latencies == sorted(latencies)
    assert found["width"][0] <= found["width"][1]
    assert min(found["figures"]) >= 480
    assert width < 1000 or found["cut"] == 0
    assert found["requests"] == 0
