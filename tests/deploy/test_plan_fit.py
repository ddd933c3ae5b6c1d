"""A trained network is cut by a plan from a file, if the network has what the plan names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sepnas.deployment.serial import deployed_plan
from sepnas.errors import DeploymentError
from sepnas.nets.separable import SeparableResNeXt
from sepnas.plan.document import load_plan, save_plan
from sepnas.plan.plan import Plan
from sepnas.plan.steps import Merge
from sepnas.runtime.client.session import Session
from sepnas.separable.build import build_plan
from tests.helpers_runtime import (
    export_tiny,
    lively_network,
    pair_architecture,
    threads,
    tiny_architecture,
    transfer,
    whole_logits,
)


@pytest.fixture(scope="module")
def network() -> SeparableResNeXt:
    return lively_network(pair_architecture())


def test_a_network_is_cut_by_a_plan_file(network: SeparableResNeXt, tmp_path: Path) -> None:
    """By the plan of another policy over the same layers the devices compute what that policy computes."""
    fewer = tiny_architecture([{"after": 1, "transfers": [transfer(1, 0)]}], devices=2, depth=11)
    plan = load_plan(save_plan(build_plan(fewer), tmp_path / "plan.json"))
    export_tiny(network, tmp_path / "deployment", plan=plan)
    assert deployed_plan(tmp_path / "deployment") == plan
    x_BCHW = np.random.default_rng(0).standard_normal((2, 1, 8, 8), dtype=np.float32)
    with threads(tmp_path / "deployment") as hosts, Session(tmp_path / "deployment", hosts) as session:
        answer = session.infer(x_BCHW)
    other = SeparableResNeXt(fewer).eval()
    kept = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("merges.")}
    other.load_state_dict(kept, strict=False)
    np.testing.assert_allclose(answer, whole_logits(other, x_BCHW), rtol=1e-5, atol=1e-6)


def _with_parameter(plan: Plan, name: str) -> Plan:
    programs = tuple(
        tuple(replace(step, parameter=name) if isinstance(step, Merge) and step.parameter else step for step in program)
        for program in plan.programs
    )
    return replace(plan, programs=programs)


def _other_layers(plan: Plan) -> Plan:
    segments = tuple(
        {name: replace(segment, layers=("block9",)) for name, segment in each.items()} for each in plan.segments
    )
    return replace(plan, segments=segments)


FOREIGN: dict[str, Callable[[Plan], Plan]] = {
    "it is for 3 devices, the network for 2": lambda plan: build_plan(tiny_architecture([], "mean", depth=11)),
    "learned weights 'nothing'": lambda plan: _with_parameter(plan, "nothing"),
    "computes the layers block9": _other_layers,
}


@pytest.mark.parametrize("says", FOREIGN)
def test_a_plan_of_another_network_is_refused(says: str, network: SeparableResNeXt, tmp_path: Path) -> None:
    """What the network does not have is named, and nothing is written."""
    plan = FOREIGN[says](build_plan(network.architecture))
    with pytest.raises(DeploymentError, match=f"the plan does not fit the network .*{says}"):
        export_tiny(network, tmp_path / "deployment", plan=plan)
    assert not (tmp_path / "deployment").exists()
