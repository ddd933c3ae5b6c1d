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

from sepnas.partition.schemes.registry import partition
from sepnas.report.content import DrawnMap, ReportContent
from sepnas.report.page import render_report
from sepnas.report.plan_map.make import map_of
from tests.partition.chains import equal_chain
from tests.report.test_report import whole

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: install the package chromium"),
]

TELL = """  found.requests = performance.getEntriesByType("resource").length;
  const said = document.createElement("pre");
  said.id = "found";
  said.textContent = JSON.stringify(found);
  document.body.append(said);
})();
</script>
"""
"""The end of each script: it puts down what was found."""
DRIVE = (
    """
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
"""
    + TELL
)


def drive(page: str, folder: Path, width: int, script: str = DRIVE) -> dict[str, Any]:
    """What the page's elements did when they were clicked in a window of so many pixels."""
    path = folder / "page.html"
    path.write_text(page.replace("</body>", f"{script}</body>"), encoding="utf-8")
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


MAP_DRIVE = (
    """
<script>
(() => {
  for (const each of document.querySelectorAll("details")) each.open = true;
  const inside = (a, b) => a.left >= b.left - 1 && a.right <= b.right + 1
    && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
  const overlap = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
  const cards = [...document.querySelectorAll(".card")].map((card) => card.getBoundingClientRect());
  const found = { cards: cards.length, spilled: 0, overlaps: 0, tips: 0 };
  for (const card of document.querySelectorAll(".card")) {
    const box = card.getBoundingClientRect();
    for (const child of card.querySelectorAll(".named, .fact, svg, .bars")) {
      if (!inside(child.getBoundingClientRect(), box) || child.scrollWidth > child.clientWidth + 1) found.spilled += 1;
    }
    const texts = [...card.querySelectorAll(".regions text")].map((text) => text.getBoundingClientRect());
    texts.forEach((text, at) => texts.slice(at + 1).forEach((other) => { found.overlaps += overlap(text, other); }));
  }
  cards.forEach((card, at) => cards.slice(at + 1).forEach((other) => { found.overlaps += overlap(card, other); }));
  const texts = [...document.querySelectorAll(".map text")];
  found.smallest = Math.min(...texts.map((text) => text.getBoundingClientRect().height));
  const page = document.documentElement;
  found.width = [page.scrollWidth, innerWidth];
"""
    + TELL
)


@pytest.mark.parametrize("width", [390, 1280])
def test_maps_are_legible(width: int, tmp_path: Path) -> None:
    """Cards lie within the page, beside each other, and their texts within the cards, whatever the window's width."""
    made = equal_chain(4, 24, 48)
    made.head(10)
    graph = made.graph()
    drawn = []
    for number, (scheme, devices) in enumerate((("fused-tiles", 7), ("rows", 10), ("grid", 9), ("input-channels", 4))):
        plan = partition(graph, scheme, [1.0] * devices)
        names = [f"board-with-a-long-name-{rank}" for rank in range(devices)]
        drawn.append(DrawnMap(map_of(plan, names, slug=f"map-{number}", title=scheme, graph=graph), folded=number > 0))
    found = drive(render_report(ReportContent(maps=tuple(drawn))), tmp_path, width, MAP_DRIVE)
    assert found["cards"] == sum(len(each.found.cards) + 1 for each in drawn)
    assert (found["spilled"], found["overlaps"], found["requests"]) == (0, 0, 0)
    assert found["smallest"] >= 8
    assert found["width"][0] <= found["width"][1]
