"""The plan as a file: it comes back as it was, and each mistake is refused with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from sepnas.cost.simulator import simulate
from sepnas.errors import PlanError, SpecError, VersionError
from sepnas.plan.document import PlanDocument, load_plan, save_plan
from sepnas.search.canonical import plan_key
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.separable.build import build_plan
from sepnas.separable.lower import lower
from sepnas.spec.cluster import uniform_cluster
from tests.strategies import architectures

QUICK = settings(max_examples=30, deadline=None)


@QUICK
@given(architectures())
def test_every_plan_comes_back_from_its_file(architecture: Architecture) -> None:
    """A lowered plan read from JSON is the plan, with the same key, price and bytes."""
    for plan in (lower(architecture), build_plan(architecture)):
        document = PlanDocument.from_data(json.loads(PlanDocument.of(plan).dumps()))
        found = document.plan()
        assert found == plan
        assert found.even == plan.even
        assert plan_key(found) == plan_key(plan)
        assert found.segments == plan.segments  # with operators and weights
        cluster = uniform_cluster(plan.num_devices)
        assert simulate(found, cluster) == simulate(plan, cluster)


def test_a_plan_file_knows_no_family(tmp_path: Path) -> None:
    """A plan file holds steps, tensors and segments, and no word about the architecture that they come from."""
    path = save_plan(build_plan(named_architecture("resnext11_2x4d", 2, "all-to-all")), tmp_path / "plan.json")
    data = json.loads(path.read_text())
    assert (data["format"], data["version"]) == ("sepnas.plan", 1)
    assert sorted(data) == ["devices", "even", "format", "inputs", "outputs", "version"]
    assert "resnext" not in path.read_text().lower()


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return PlanDocument.of(build_plan(named_architecture("resnext11_2x4d", 2, "all-to-all"))).to_data()


def _changed(data: dict[str, Any], *path: str | int, value: Any) -> dict[str, Any]:
    copied = json.loads(json.dumps(data))
    place = copied
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copied


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("version",), 2, "up to version 1, got 2"),
        (("devices", 0, "steps", 0, "tag"), -1, r"`devices\.0\.steps\.0\.tag`"),
        (("devices", 0, "steps", 0, "step"), "dance", r"`devices\.0\.steps\.0`.*'dance'"),
        (("devices", 0, "tensors", "x", "axes"), "CC", r"`devices\.0\.tensors\.x`.*`axes` must name"),
        (("devices", 0, "tensors", "x", "dims"), [1 << 20, 1 << 20, 1], r"a tensor has at most"),
        (("devices", 0, "colour"), 1, r"`devices\.0\.colour`: unknown key"),
        (("inputs", 0, "pieces"), [], r"`inputs\.0\.pieces`"),
        (("outputs",), [], "`outputs`"),
        (("devices", 1, "segments", "../up"), {}, r"`devices\.1\.segments\.\.\./up"),
    ],
)
def test_a_wrong_field_is_named(data: dict[str, Any], path: tuple[str | int, ...], value: Any, says: str) -> None:
    """A field of a wrong type, an unknown key or step, or a newer version is refused with its place."""
    with pytest.raises((SpecError, VersionError), match=says):
        PlanDocument.from_data(_changed(data, *path, value=value), "plan.json")


def test_a_wrong_step_is_named_with_its_file(data: dict[str, Any], tmp_path: Path) -> None:
    """What cannot be carried out is refused with file, device and step."""
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(_changed(data, "devices", 1, "steps", 1, "inputs", value=["nothing"])))
    with pytest.raises(PlanError, match=r"plan\.json: device 1, step 1 \(compute .*takes tensor 'nothing', which no"):
        load_plan(path)
