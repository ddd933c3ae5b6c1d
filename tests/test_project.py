"""The project's papers agree with the code and with each other."""

from __future__ import annotations

import re
import subprocess
from itertools import chain
from pathlib import Path

import pytest
import yaml

import sepnas

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    page
    for page in chain(ROOT.glob("*.md"), ROOT.glob("docs/**/*.md"), ROOT.glob("experiments/*/README.md"))
    if page.is_file()
)
_LINK = re.compile(r"\]\((?!https?:|#)([^)\s#]+)(?:#[^)\s]*)?\)")


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    """Every relative link and picture of a page is in the repository."""
    missing = [link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", [ROOT / "SECURITY.md", *ROOT.glob("docs/**/*.md")], ids=ids)
def test_files_that_are_named_are_there(page: Path) -> None:
    """Every file or folder that a page on the code names is below sepnas/ or in the repository."""
    named = re.findall(r"`([a-z0-9_.-]+/[a-z0-9_./-]*)`", page.read_text())
    written = ("deployment/", "device", "authority/", "client/")  # what an export writes
    code = [name for name in named if name.endswith(".py") or not name.startswith(written)]
    assert [name for name in code if not any((base / name).exists() for base in (ROOT, ROOT / "sepnas"))] == []


def test_the_citation_names_this_version() -> None:
    """CITATION.cff has the package's version and licence."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (sepnas.__version__, "Apache-2.0")


def test_the_changelog_knows_this_version() -> None:
    """CHANGELOG.md has a section for the package's version, or says that it is not released."""
    text = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{sepnas.__version__}]" in text or f"{sepnas.__version__} is the version of the main branch" in text


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_make_knows_what_the_pages_name(name: str) -> None:
    """Every `make TARGET` of the page is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)(?=`|  |$)", (ROOT / name).read_text(), re.MULTILINE))
    assert named
    assert named <= targets


def test_direct_dependencies_are_pinned() -> None:
    """Every dependency and development tool of pyproject.toml, but for fuzzing, has one version in constraints.txt."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [wanted for extra, wanted in project["optional-dependencies"].items() if extra != "fuzz"]
    direct = {_name(each) for each in chain(project["dependencies"], *extras)} - {"sepnas"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {_name(line) for line in lines if "==" in line}
    assert direct - pinned == set()


def _name(requirement: str) -> str:
    """As package indexes compare it."""
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_hooks_and_workflows_run_what_is_there() -> None:
    """The commit hooks run the tools of .venv, and the workflow runs .ci/run, which is a shell script."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = {hook["entry"].split()[0] for hook in hooks}
    assert entries == {".venv/bin/ruff", ".venv/bin/mypy", ".venv/bin/lint-imports"}
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert ".ci/run" in commands
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


def test_the_workflow_tries_every_supported_python() -> None:
    """The versions of the base install in the workflow are those of the classifiers."""
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    tried = jobs["base-install"]["strategy"]["matrix"]["python"]
    text = (ROOT / "pyproject.toml").read_text()
    assert tried == re.findall(r"Programming Language :: Python :: (3\.\d+)", text)
