"""Every merge rule keeps the contract, and one more is one more entry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sepnas.plan.merge_rules import MERGE_RULES, MergeRule
from sepnas.testing.merge_rules import MergeRuleContract

ENTRY = '    Merger("weighted", _weighted, learned=True),\n'

PROGRAM = """
import importlib.util, pathlib, sys
spec = importlib.util.find_spec("sepnas.plan.merge_rules")
source = pathlib.Path(spec.origin).read_text()
assert source.count(ENTRY) == 1
damped = ENTRY + '''    Merger("damped", lambda a, own, parts, weights, /: a.add(
        own, [a.times(0.5 / len(parts), a.minus(part, own)) for part in parts]
    )),
'''
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
exec(compile(source.replace(ENTRY, damped), spec.origin, "exec"), module.__dict__)

import numpy as np, pytest, torch
from sepnas.runtime.tensors.codec import normalise
from sepnas.separable.build import build_plan
from tests.helpers_runtime import lively_network, tiny_architecture, transfer
from tests.plan.test_invariants import _run_devices

sent = [transfer(0, 1, "fp16"), transfer(2, 0, fraction=0.5), transfer(1, 0, lag=1)]
points = [{"after": 0, "merge": "damped", "transfers": sent}, {"after": 2, "merge": "mean", "transfers": sent}]
network = lively_network(tiny_architecture(points, "mean"))
plan = build_plan(network.architecture)
kinds = [step.kind for program in plan.programs for step in program if hasattr(step, "kind")]
assert {"damped", "mean"} == set(kinds), kinds
images, normalisation = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8), np.uint8), np.float32([[0.5], [0.2]])
x = normalise(images, normalisation)
with torch.inference_mode():
    whole = network(torch.from_numpy(x)).numpy()
    answer, counted, total = _run_devices(plan, network, images, normalisation)
assert np.abs(answer - whole).max() <= 1e-5 * np.abs(whole).max()
assert (counted, total) == (plan.payload_bytes(2), plan.total_bytes(2))
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", TEST, "-k", "damped and TestEveryRule"]))
"""


class TestEveryRule(MergeRuleContract):
    @pytest.fixture(params=MERGE_RULES)
    def rule(self, request: pytest.FixtureRequest) -> MergeRule:
        name: MergeRule = request.param
        return name


@pytest.mark.slow
def test_a_new_rule_is_one_entry() -> None:
    """With one more entry ``damped`` is a choice of policies, lowered, carried out, trained, and keeps the contract."""
    program = f"ENTRY, TEST = {ENTRY!r}, {str(Path(__file__).resolve())!r}\n{PROGRAM}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
