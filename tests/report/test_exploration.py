"""The report of a search as a whole: how it went, and what its policies look like."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sepnas.cli.main import app
from sepnas.report.content import CandidatePoint, ReportContent
from sepnas.report.exploration import MAX_POLICIES, spread
from sepnas.report.from_search import search_parts
from sepnas.report.page import render_report
from sepnas.search.found import Found
from sepnas.search.pareto import hypervolume, pareto_front
from sepnas.search.screen import reference_costs
from sepnas.separable.architecture import named_architecture, named_policy
from sepnas.separable.space import SearchSpace
from tests.helpers_search import evaluated_run
from tests.report.test_report import Page

SPACES = Path(__file__).parents[2] / "search_spaces"
DEMO, PAPER = (SearchSpace.load(SPACES / f"{name}.yaml") for name in ("demo", "paper"))
NUMBER = 80


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that is not finished."""
    folder = tmp_path_factory.mktemp("exploration") / "search"
    evaluated_run(folder, DEMO, NUMBER, wanted=NUMBER + 1)
    return folder


@pytest.fixture(scope="module")
def content(run: Path) -> ReportContent:
    return ReportContent(title="A search", **search_parts(run, Found.load(run).front[3].key))


@pytest.fixture(scope="module")
def page(content: ReportContent) -> str:
    return render_report(content)


def pictures(page: str, slug: str) -> list[str]:
    """The SVG elements of a section."""
    [section] = re.findall(rf'<section id="{slug}">.*?</section>', page, re.DOTALL)
    return re.findall(r"<svg .*?</svg>", section, re.DOTALL)


def test_a_search_has_its_history_and_its_policies_on_the_page(page: str) -> None:
    """Beside the front stand how it grew and what the policies are like; ids are unique, nothing is fetched."""
    parsed = Page(page)
    assert parsed.sections() == ["front", "progress", "policies"]
    assert len(parsed.ids()) == len(set(parsed.ids()))
    assert "://" not in page
    assert len(pictures(page, "progress")) == 2
    assert all('aria-label="' in svg for svg in pictures(page, "progress") + pictures(page, "policies"))


def test_the_report_verb_takes_an_unfinished_search(run: Path, tmp_path: Path) -> None:
    """`sepnas report --search` writes the page of a search that still runs."""
    out = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", "--search", str(run), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert {"progress", "policies"} <= set(Page(out.read_text()).sections())


def test_growth_ends_at_the_front(run: Path, content: ReportContent) -> None:
    """There is a step for each candidate, hypervolume never falls, and the last one is that of the front."""
    found = Found.load(run)
    worst = reference_costs(found.run.space, found.run.cluster, found.run.seed)
    assert [step.evaluated for step in content.growth] == list(range(1, NUMBER + 1))
    volumes = [step.hypervolume for step in content.growth]
    assert volumes == sorted(volumes)
    assert volumes[-1] == hypervolume(found.front, worst)
    assert content.growth[-1].front_size == len(found.front)


def test_before_and_after_are_the_fronts_of_a_quarter_and_of_all(run: Path, content: ReportContent, page: str) -> None:
    """The picture has a ring for each point of the first quarter's front, and a dot for each of the whole one."""
    found = Found.load(run)
    before = {candidate.index for candidate in pareto_front(found.candidates[: NUMBER // 4])}
    assert {c.index for c in content.candidates if c.on_early_front} == before
    [svg] = [svg for svg in pictures(page, "progress") if "before-after" in svg]
    assert svg.count("data-key=") == len(before) + len(found.front)


def test_every_candidate_is_a_line(content: ReportContent, page: str) -> None:
    """Each candidate has one line, which lights up with its marks in the other pictures and says its policy."""
    lines = pictures(page, "policies")[0]
    for candidate in content.candidates:
        assert lines.count(f'data-key="candidate-{candidate.index}"') == 1
    assert all(candidate.phrase in lines for candidate in content.candidates)


def test_axes_are_the_varying_traits(page: str, tmp_path: Path) -> None:
    """The demo's policies differ in lag and wire format, the paper's in neither: there those have no axis."""
    evaluated_run(tmp_path, PAPER, 30)
    paper = pictures(render_report(ReportContent(**search_parts(tmp_path))), "policies")[0]
    demo = pictures(page, "policies")[0]
    for caption, in_paper in (("transfers", True), ("payload", True), ("lagged", False), ("bits of a", False)):
        assert f">{caption}</" in demo
        assert (f">{caption}</" in paper) == in_paper
    assert ">depth</" not in demo


def test_a_space_of_networks_has_axes_for_them(content: ReportContent) -> None:
    """Where candidates differ in depth or width, those are axes too."""
    deeper = [replace(c, traits={**c.traits, "depth": 11 + 9 * (c.index % 3)}) for c in content.candidates]
    lines = pictures(render_report(ReportContent(candidates=tuple(deeper))), "policies")[0]
    assert ">depth</" in lines
    assert ">29</" in lines


def test_named_policies_are_known_on_every_network(tmp_path: Path) -> None:
    """In a space of many networks each candidate whose plan is that of a named policy on its own network says so."""
    data = DEMO.to_data()
    data["network"] |= {"depth": [11, 20], "bottleneck_width": [2, 4]}
    space = SearchSpace.from_data(data)
    genotypes, names = [], []
    for name, depth, width in product(("all-to-all", "none"), (11, 20), (2, 4)):
        genotype = space.genotype_of(named_policy(name, 3, depth), depth)
        assert genotype is not None
        genotypes.append({**genotype, "bottleneck_width": width})
        names.append(name)
    evaluated_run(tmp_path, space, 20, first=genotypes)
    labels = [candidate.label for candidate in search_parts(tmp_path)["candidates"]]
    assert labels[:8] == names
    assert labels[8:].count("all-to-all") == 0


def test_policies_are_drawn_as_sent(content: ReportContent, page: str) -> None:
    """A picture for each shown point of the front has one arrow for each transfer that is sent."""
    front = [candidate for candidate in content.candidates if candidate.on_front]
    shown = spread(front, MAX_POLICIES)
    drawn = {re.search(r"policy-(\d+)-", svg)[1]: svg for svg in pictures(page, "policies")[2:]}  # type: ignore[index]
    assert list(drawn) == [str(candidate.index) for candidate in shown]
    for candidate in shown:
        assert drawn[str(candidate.index)].count("of the channels as") == candidate.traits["num_transfers"]


def point(index: int, **marks: bool) -> CandidatePoint:
    objectives = {"accuracy": 0.9, "latency_s": 0.1, "payload_bytes": 10.0 * index}
    return CandidatePoint(index, objectives, on_front=True, **marks)


@pytest.mark.parametrize(("knee", "chosen"), [(1, 2), (30, 31), (50, 50), (98, 97)])
def test_shown_points_are_spread_with_the_knee_and_the_chosen(knee: int, chosen: int) -> None:
    """Of many points twelve are shown, from end to end, and always the knee and the chosen one."""
    front = [point(index, knee=index == knee, chosen=index == chosen) for index in range(100)]
    shown = [candidate.index for candidate in spread(front, 12)]
    assert len(shown) == 12
    assert shown == sorted(shown)
    assert {0, knee, chosen, 99} <= set(shown)
    assert max(b - a for a, b in pairwise(shown)) < 20


def test_a_policy_that_nobody_can_follow_is_not_drawn(content: ReportContent) -> None:
    """Policies of very many transfers are left out of the pictures, which would grow heavy, not out of the table."""
    huge = named_architecture("resnext110_8x4d", 8)
    candidates = tuple(
        replace(c, traits={**c.traits, "num_transfers": 2016}, architecture=huge) if c.on_front else c
        for c in content.candidates
    )
    text = render_report(ReportContent(candidates=candidates))
    assert len(pictures(text, "policies")) == 1
    assert "<td>2016</td>" in text


@pytest.mark.parametrize("number", [1, 5])
def test_few_candidates_are_a_page_too(number: int, tmp_path: Path) -> None:
    """A search that has just begun, perhaps with nothing but silent policies, has the same sections."""
    evaluated_run(tmp_path, DEMO, number, wanted=50)
    text = render_report(ReportContent(**search_parts(tmp_path)))
    assert Page(text).sections() == ["front", "progress", "policies"]


@pytest.mark.slow
def test_the_page_of_a_long_search_stays_light(tmp_path: Path) -> None:
    """500 candidates of nine exchange points are less than three megabytes."""
    evaluated_run(tmp_path, PAPER, 500)
    assert len(render_report(ReportContent(**search_parts(tmp_path))).encode()) < 3e6


def test_the_commands_of_the_chain_stand_on_the_page(run: Path, tmp_path: Path) -> None:
    """From the search to the report, with what it takes to run them again; the title names run, data and day."""
    knee = Found.load(run).knee
    path = knee.architecture.save(tmp_path / "a.json")
    out = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", "--search", str(run), "--architecture", str(path), "--out", str(out)])
    assert result.exit_code == 0, result.output
    page = html.unescape(out.read_text())
    commands = page.partition('aria-label="Commands"')[2].partition("</pre>")[0]
    assert re.search(
        rf"sepnas search \S+ --data digits --candidates {NUMBER + 1} .* --out {re.escape(str(run))}", commands
    )
    assert f"sepnas pick {run} --candidate {knee.index} --out {path}" in commands
    assert f'data-pick="sepnas pick {run} --out architecture.json --candidate"' in page
    assert re.search(rf"<title>sepnas report: {re.escape(str(run))}, digits, \d{{4}}-\d\d-\d\d</title>", page)
