"""The report page: complete, self-contained, escaped, and silent about what is not there."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sepnas.errors import StorageError
from sepnas.report.content import (
    Accuracy,
    CandidatePoint,
    ClassAccuracy,
    Curve,
    ReportContent,
    ShownLink,
    ShownSpan,
    ShownTimeline,
    SummaryRow,
)
from sepnas.report.page import render_report, write_report
from sepnas.separable.architecture import named_architecture
from sepnas.units import format_bytes, format_count, format_seconds, format_share
from tests.helpers_runtime import tiny_architecture, transfer

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """The elements, ids and text of a page; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.titles: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "title":
            self.titles.append(data)

    def sections(self) -> list[str | None]:
        return [attributes.get("id") for tag, attributes in self.elements if tag == "section"]

    def ids(self) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get("id"))]


def candidates(number: int, silent: int = 3) -> tuple[CandidatePoint, ...]:
    """Made-up candidates, the first ``silent`` of which send nothing; the last two are named and chosen."""
    points = []
    for index in range(number):
        count = 0.0 if index < silent else 1000.0 * 1.03**index
        objectives = {"accuracy": 0.8 + 0.1 * index / number, "latency_s": 0.01 + index / 1e4, "payload_bytes": count}
        points.append(CandidatePoint(7 * index, objectives, on_front=index % 3 == 0))
    points[-1] = replace(points[-1], label="all-to-all")
    points[0] = replace(points[0], chosen=True)
    return tuple(points)


def timeline(title: str, factor: float = 1.0) -> ShownTimeline:
    spans = [
        ShownSpan(0, "compute", "block0", 0.0, 0.002 * factor),
        ShownSpan(0, "send", "x0", 0.002 * factor, 0.003 * factor, peer=1, nbytes=4096),
        ShownSpan(1, "wait", "x0", 0.0, 0.0025 * factor),
        ShownSpan(1, "recv", "x0", 0.0025 * factor, 0.003 * factor, peer=0, nbytes=4096),
        ShownSpan(1, "merge", "x0", 0.003 * factor, 0.0031 * factor),
        ShownSpan(-1, "send", "image", 0.0, 0.0, peer=0, nbytes=100),
    ]
    return ShownTimeline(title, tuple(spans), 0.004 * factor)


PARTS: dict[str, dict[str, object]] = {
    "summary": {"summary": (SummaryRow("latency", "21 ms", "25 ms"), SummaryRow("bytes", "5", "6", agree=False))},
    "front": {"candidates": candidates(60)},
    "policy": {"architecture": named_architecture("resnext20_4x4d", 4, "hand-made")},
    "timeline": {"timelines": (timeline("predicted"), timeline("measured", 1.2))},
    "bytes": {"links": (ShownLink(0, 1, 4096, 4096), ShownLink(1, 0, 100, 90))},
    "accuracy": {"accuracy": Accuracy(0.97, 0.97, 360, 0, (ClassAccuracy("cat", 0.9, 0.9),))},
    "history": {"history": (Curve("training", "loss", (2.0, 1.0)), Curve("validation", "accuracy", (0.4, 0.9)))},
    "reproduce": {"machine": {"cpu": "some cpu"}, "commands": ("make demo",)},
}


def whole() -> ReportContent:
    content = ReportContent(title="All parts")
    for part in PARTS.values():
        content = replace(content, **part)  # type: ignore[arg-type]
    return content


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(whole())


def test_the_page_references_nothing_external(page: str) -> None:
    """No address stands on the page, every reference points into it, and a policy forbids all requests."""
    assert "://" not in page
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    for tag, attributes in Page(page).elements:
        assert tag not in ("link", "img", "iframe", "object", "base")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    assert "default-src 'none'" in page


def test_every_reference_has_one_target(page: str) -> None:
    """Ids are unique over all pictures, and whatever the page refers to is on it."""
    parsed = Page(page)
    ids = parsed.ids()
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r"url\(#([^)]*)\)", page))
    wanted |= {(attributes.get("href") or "#")[1:] for _, attributes in parsed.elements if "href" in attributes}
    assert wanted <= set(ids)


@pytest.mark.parametrize("number", [1, 2, 60, 300])
def test_every_candidate_is_on_the_page(number: int) -> None:
    """Each candidate is a mark with a tip in both pictures and a row of a table, however few or many there are."""
    points = candidates(number, silent=number // 20)
    text = render_report(ReportContent(candidates=points))
    titles = Page(text).titles
    for point in points:
        starts = (f"candidate {point.index}:", f"candidate {point.index} (")
        assert sum(title.startswith(starts) for title in titles) == 2
        assert text.count(f'data-key="candidate-{point.index}"') == 2
        assert f'<th scope="row" class="text">{point.index}</th>' in text


def test_equal_and_silent_candidates_are_drawn() -> None:
    """A search in which nobody sends anything, or all candidates are equal, has a picture like any other."""
    equal = {"accuracy": 0.5, "latency_s": 0.0, "payload_bytes": 0.0}
    text = render_report(ReportContent(candidates=tuple(CandidatePoint(i, equal) for i in range(3))))
    assert text.count('data-key="candidate-2"') == 2


def test_a_silent_policy_stands_beside_a_logarithmic_scale() -> None:
    """Zero has a tick of its own where some candidates send nothing, and none where all send."""
    some = render_report(ReportContent(candidates=candidates(60, silent=3)))
    none = render_report(ReportContent(candidates=candidates(60, silent=0)))
    assert ">0 B</text>" in some
    assert ">0 B</text>" not in none


@pytest.mark.parametrize("slug", list(PARTS))
def test_a_part_that_is_not_there_leaves_no_section(slug: str) -> None:
    """Each section appears with its data and only then."""
    alone = Page(render_report(ReportContent(title="One part", **PARTS[slug])))  # type: ignore[arg-type]
    assert alone.sections() == [slug]


def test_nothing_at_all_is_a_page_too() -> None:
    """Without any data the page has its title and no section."""
    text = render_report(ReportContent(title="Nothing yet"))
    assert "<h1>Nothing yet</h1>" in text
    assert Page(text).sections() == []


def test_sections_stand_in_order(page: str) -> None:
    """All parts together are all sections, in the order of the content."""
    assert Page(page).sections() == list(PARTS)


def test_text_is_escaped() -> None:
    """Names from data sets and files are text wherever they stand: markup and formulas in them are inert."""
    evil = '<script>alert(1)</script> & "quoted" $x_1$ \\frac'
    point = CandidatePoint(0, {"accuracy": 0.5, "latency_s": 0.1, "payload_bytes": 10.0}, True, evil, True)
    spans = (ShownSpan(0, "compute", evil, 0.0, 1.0),)
    content = ReportContent(
        title=evil,
        lead=evil,
        summary=(SummaryRow(evil, evil, evil, True),),
        candidates=(point,),
        timelines=(ShownTimeline(evil, spans, 1.0),),
        accuracy=Accuracy(0.5, 0.5, 2, 0, (ClassAccuracy("<script>", 0.5, 0.5), ClassAccuracy(evil, 0.5, 0.5))),
        history=(Curve(evil, evil, (1.0, 2.0)),),
        machine={evil: evil},
        commands=(evil,),
    )
    text = render_report(content)
    assert "<script>alert" not in text
    assert sum(tag == "script" for tag, _ in Page(text).elements) == 1
    assert '<th scope="row" class="text">&lt;script&gt;</th>' in text
    assert "$x_1$" in text


def test_pictures_have_words(page: str) -> None:
    """Every picture is named for those who do not see it, and has a table in its section."""
    pictures = [attributes for tag, attributes in Page(page).elements if tag == "svg"]
    assert len(pictures) == 8
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in pictures)
    for section in page.split("<section ")[1:]:
        assert "<table>" in section or "<svg" not in section


def test_spans_and_transfers_say_from_and_to(page: str) -> None:
    """A tip of the time line names both ends, and so does one of the transmission policy."""
    titles = Page(page).titles
    assert sum(title.startswith("send device 0 → device 1: x0, 4.1 kB") for title in titles) == 2
    assert sum(title.startswith("receive device 0 → device 1: x0, 4.1 kB") for title in titles) == 2
    assert "after block 0: device 0 → device 1, 100 % of the channels as fp32, lag 1, mean" in titles


def written_peers(*bars: tuple[float, float, int]) -> list[str]:
    """What stands on the bars ``(start_s, end_s, peer)`` of what device 0 sends, in a picture of one second."""
    spans = tuple(ShownSpan(0, "send", f"x{n}", start_s, end_s, peer) for n, (start_s, end_s, peer) in enumerate(bars))
    page = render_report(ReportContent(timelines=(ShownTimeline("", spans, 1.0),)))
    return re.findall(r">(→ [^<]*)</text>", page)


def test_peers_names_do_not_lie_over_each_other() -> None:
    """Bars over each other have their peers' names once and together, bars side by side each its own."""
    assert written_peers((0, 0.2, 1), (0.2, 0.4, 2)) == ["→ 1", "→ 2"]
    assert written_peers((0, 0.2, 2), (0.1, 0.3, 1), (0.25, 0.4, 2), (0.4, 0.5, -1)) == ["→ 1, 2", "→ client"]


def test_bars_without_room_have_no_names() -> None:
    """A bar that is too narrow for its peer's name has a tip only; wider names need wider bars."""
    assert written_peers((0, 0.01, 1), (0.5, 0.53, 1)) == ["→ 1"]
    assert written_peers((0, 0.03, 1), (0.01, 0.04, 2), (0.01, 0.04, 3)) == []


def test_links_that_differ_are_marked(page: str) -> None:
    """A link whose counted bytes are not the predicted ones stands out with the difference."""
    assert '<tr class="marked"><th scope="row" class="text">1 → 0</th>' in page
    assert "<td>-10</td>" in page


def test_the_same_content_gives_the_same_page(page: str) -> None:
    """The page holds no time, no counter and no random id."""
    assert render_report(whole()) == page


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """The page lands at its place; where it cannot, an error names the place."""
    out_html = write_report(tmp_path / "runs" / "report.html", ReportContent(title="Here"))
    assert "<title>Here</title>" in out_html.read_text(encoding="utf-8")
    with pytest.raises(StorageError, match=r"report\.html"):
        write_report(out_html / "report.html", ReportContent())


def test_numbers_are_written_for_people() -> None:
    """Units fit the size, and rounding never shows a thousand of the smaller unit."""
    counts = {0: "0 B", 999: "999 B", 1000: "1 kB", 999_999: "1 MB", 5_505_024: "5.51 MB", 2e12: "2,000 GB"}
    assert {count: format_bytes(count) for count in counts} == counts
    times_s = {0: "0 s", 2.5e-6: "2.5 µs", 0.0123: "12.3 ms", 0.99999: "1 s", 1234.0: "1,234 s"}
    assert {time_s: format_seconds(time_s) for time_s in times_s} == times_s
    assert format_share(0.97222) == "97.22 %"
    assert [format_count(count, "class") for count in (0, 1, 1797)] == ["0 classes", "1 class", "1,797 classes"]


def test_one_of_a_kind_is_singular() -> None:
    """A page of one candidate, one device, one image and one class speaks of one."""
    page = render_report(
        ReportContent(
            candidates=candidates(1),
            timelines=(ShownTimeline("predicted", (ShownSpan(0, "compute", "block0", 0.0, 1.0),), 1.0),),
            accuracy=Accuracy(0.0, 1.0, 1, 1, (ClassAccuracy("cat", 0.0, 1.0),)),
            architecture=named_architecture("resnext11_1x4d"),
        )
    )
    assert "1 candidate, 1 of them" in page
    assert not re.search(r"\b1 (candidates|devices|images|classes|links|transfers)", page)


def test_accuracies_of_candidates_are_those_of_the_supernet() -> None:
    """Axes, tips and tables name the supernet, and latencies the cluster that they were predicted for."""
    page = render_report(ReportContent(candidates=candidates(20), search_cluster="four boards"))
    assert page.count(">accuracy on the supernet</text>") == 2
    assert '<th scope="col">supernet accuracy</th>' in page
    assert ">latency predicted for cluster four boards</text>" in page
    assert "predicted for cluster “four boards”" in page
    assert not re.search(r"candidate \d+[^<]*: accuracy", page)


def test_the_knee_is_marked_and_named() -> None:
    """The knee has a mark in the legend, a label at its point and a word in its row."""
    points = candidates(20)
    page = render_report(ReportContent(candidates=(replace(points[0], knee=True), *points[1:])))
    assert page.count(">knee</text>") == 2
    assert page.count(">chosen, knee: 0</text>") == 2
    assert "front, knee, chosen" in page


def test_tables_of_candidates_have_all_costs() -> None:
    """Policy, energy, memory and devices stand in the tables, with values to sort by; none without the data."""
    costs = {"accuracy": 0.5, "latency_s": 0.002, "payload_bytes": 3e4, "energy_j": 0.25, "memory_bytes": 1.5e6}
    point = CandidatePoint(3, costs, True, phrase="silent", devices_used=2)
    page = render_report(ReportContent(candidates=(point,)))
    for cell in ('<td data-value="0.25">0.25 J</td>', '<td data-value="2">2</td>', '<td class="text">silent</td>'):
        assert cell in page
    assert '<td data-value="30000.0">30,000</td>' in page
    assert ">energy</th>" not in render_report(ReportContent(candidates=candidates(3)))


def test_expected_stands_beside_numbers_only() -> None:
    """A tile without an expectation does not speak of one."""
    rows = SummaryRow("share", "", "2.8 %"), SummaryRow("latency", "3 ms", "5 ms")
    page = render_report(ReportContent(summary=rows))
    assert page.count("expected 3 ms") == 1
    assert not re.search(r"expected\s*<", page)


def test_both_sections_count_the_transfers_that_are_sent() -> None:
    """A transfer that cannot reach the answer is neither drawn nor listed, and the page says how many there are."""
    policy = {"points": [{"after": b, "transfers": [transfer(1, 0), transfer(0, 1)]} for b in (0, 5)]}
    architecture = tiny_architecture(policy["points"], devices=2)
    page = render_report(ReportContent(architecture=architecture))
    assert "<summary>The 3 transfers</summary>" in page
    assert "1 transfer of it cannot affect the answer" in page
    assert page.count("of the channels as") == 3


def test_idle_devices_are_drawn_idle() -> None:
    """A device that the answer does not need is named so in the picture and above it."""
    architecture = tiny_architecture([{"after": 0, "transfers": [transfer(1, 0)]}])
    page = render_report(ReportContent(architecture=architecture))
    assert page.count(">not needed</tspan>") + page.count(">not needed</text>") == 1
    assert "Device 2 is not needed: nothing that it computes reaches the answer." in page


def test_the_title_names_the_run() -> None:
    """The browser's title and the page's head say which run, data and day they are of."""
    page = render_report(ReportContent(title="A page", about="runs/search, digits, 2026-01-31"))
    assert "<title>A page: runs/search, digits, 2026-01-31</title>" in page
    assert '<p class="about">runs/search, digits, 2026-01-31</p>' in page


def test_names_in_any_script_are_drawn_without_a_warning() -> None:
    """A class whose name matplotlib's own font cannot draw is left to the browser's fonts, silently."""
    accuracy = Accuracy(0.5, 0.5, 2, 0, (ClassAccuracy("\N{CJK UNIFIED IDEOGRAPH-72AC}", 0.5, 0.5),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = render_report(ReportContent(title="dogs", accuracy=accuracy))
    assert "\N{CJK UNIFIED IDEOGRAPH-72AC}" in page


def test_names_that_would_steer_are_escaped() -> None:
    """Controls in a name neither break a picture nor stand on the page."""
    evil = "a\x1b[2J\u202eb\x00"
    accuracy = Accuracy(0.5, 0.5, 2, 0, (ClassAccuracy(evil, 0.5, 0.5),))
    page = render_report(ReportContent(title=evil, accuracy=accuracy))
    assert r"a\x1b[2J\u202eb\x00" in page
    assert not set(page) & set("\x1b\x00\u202e")
