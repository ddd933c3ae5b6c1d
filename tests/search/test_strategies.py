"""The strategies: what they choose is new, feasible and promising, whatever the accuracies are."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import get_args

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepnas.errors import SearchError
from sepnas.search import load_candidates
from sepnas.search.describer import Describer
from sepnas.search.explorer import STRATEGIES, StrategyName
from sepnas.search.genes import GenePool
from sepnas.search.pareto import improvement, log_shares
from sepnas.search.policy_problem import PolicyProblem
from sepnas.search.predictor import AccuracyPredictor, without_tail
from sepnas.search.screen import Screen, Screened, first_genotypes, reference_costs
from sepnas.search.strategies import make_proposer, remark_on
from sepnas.separable.space import SearchSpace
from sepnas.train.recipe import RECIPES
from tests.search.test_search import CLUSTER, SPACE, TINY, constrained, search

PROPOSERS: tuple[StrategyName, ...] = ("predictive", "evolution", "nsga2")
WORST = reference_costs(SPACE, CLUSTER, 0)


def made_up(found: Screened) -> dict[str, float]:
    """Objectives whose accuracy grows with what crosses after the first block, and falls with coarse wires."""
    gain = sum(
        transfer.fraction * (1.0 if transfer.wire == "fp32" else 0.8) / (1 + point.after)
        for point in found.architecture.policy.points
        for transfer in point.transfers
    )
    return {"accuracy": 1 - 0.5 / (1 + gain), **{name: found.costs[name] for name in ("latency_s", "payload_bytes")}}


def explore(strategy: StrategyName, count: int, seed: int = 0, space: SearchSpace = SPACE) -> list[Screened]:
    """What a strategy proposes, eight at a time, when it is told made-up accuracies."""
    proposer = make_proposer(strategy, PolicyProblem(Screen(space, CLUSTER), seed), seed)
    proposed: list[Screened] = []
    while len(proposed) < count:
        batch = list(islice(iter(proposer.propose, None), 8))
        if not batch:
            break
        proposed += batch
        for found in batch:
            proposer.tell(found.key, made_up(found))
    return proposed


def volume(proposed: list[Screened]) -> float:
    rows = np.stack([log_shares(made_up(found), WORST) for found in proposed])
    return float(moocore.hypervolume(rows, ref=[1.0] * 3))


@pytest.mark.parametrize("strategy", PROPOSERS)
def test_proposals_are_new_and_feasible_and_the_seed_s(strategy: StrategyName) -> None:
    """No plan is proposed twice, none breaks a bound, and the same seed proposes the same."""
    space = constrained(max_payload_bytes=2000)
    proposed = explore(strategy, 64, space=space)
    assert len({found.key for found in proposed}) == len(proposed)
    assert all(found.feasible and found.costs["payload_bytes"] <= 2000 for found in proposed)
    assert [found.key for found in explore(strategy, 64, space=space)] == [found.key for found in proposed]
    assert [found.key for found in explore(strategy, 64, seed=1, space=space)] != [found.key for found in proposed]


def test_the_predictor_pays() -> None:
    """With as many evaluations, choosing by prediction finds more hypervolume than evolution, that more than chance."""
    predictive, evolution = (
        np.mean([volume(explore(strategy, 64, seed)) for seed in range(3)]) for strategy in ("predictive", "evolution")
    )
    screen, draw = Screen(SPACE, CLUSTER), GenePool(SPACE.choices(), 0)
    chance = volume([screen(draw.genotype(draw.draw())) for _ in range(64)])
    assert predictive > evolution > chance


def test_it_starts_with_the_ends_and_the_named_policies() -> None:
    """The first proposals are the warm start, whatever the seed."""
    screen = Screen(SPACE, CLUSTER)
    first = list(dict.fromkeys(screen(genotype).key for genotype in first_genotypes(SPACE)))
    assert [found.key for found in explore("predictive", 8, seed=5)][: len(first)] == first


def test_the_predictor_orders_what_it_has_not_seen() -> None:
    """Learned from a hundred random candidates, it ranks a hundred others nearly as they are."""
    screen, pool, describe = Screen(SPACE, CLUSTER), GenePool(SPACE.choices(), 0), Describer(SPACE)
    genes = [pool.draw() for _ in range(200)]
    found = [screen(pool.genotype(g)) for g in genes]
    rows = [describe(candidate, g) for candidate, g in zip(found, genes, strict=True)]
    accuracies = [made_up(candidate)["accuracy"] for candidate in found]
    means, deviations = AccuracyPredictor(rows[:100], accuracies[:100], seed=0).guess(rows[100:])
    assert np.corrcoef(means, accuracies[100:])[0, 1] > 0.8
    assert (deviations >= 0).all()


def test_failures_do_not_hide_differences_of_the_good() -> None:
    """Accuracies far below the median are raised, those near it and above stay; equal ones stay equal."""
    found = without_tail(np.array([0.1, 0.68, 0.7, 0.71, 0.72]))
    assert found.tolist() == pytest.approx([0.64, 0.68, 0.7, 0.71, 0.72])
    assert without_tail(np.full(4, 0.5)).tolist() == [0.5] * 4


def test_a_predictor_with_a_known_kernel_learns_new_accuracies() -> None:
    """The kernel of an earlier predictor is not fitted again, and the prediction follows the candidates given."""
    rows = list(np.random.default_rng(0).random((40, 5), dtype=np.float32))
    first = AccuracyPredictor(rows[:20], [float(row[0]) for row in rows[:20]], seed=0)
    second = AccuracyPredictor(rows, [1 - float(row[0]) for row in rows], seed=0, kernel=first.kernel)
    assert second.kernel == first.kernel
    assert np.corrcoef(second.guess(rows)[0], [row[0] for row in rows])[0, 1] < -0.95


def test_genes_and_genotypes_are_one() -> None:
    """A genotype's genes give it back, and a child has only its parents' genes but for what is drawn anew."""
    pool = GenePool(SPACE.choices(), 0)
    parents = [pool.draw() for _ in range(3)]
    assert pool.genotype(pool.genes(SPACE.largest())) == SPACE.largest()
    for _ in range(50):
        child = pool.breed(parents)
        SPACE.architecture_of(pool.genotype(child))
        assert max((child == parent).mean() for parent in parents) > 0.3


ROW = st.lists(st.floats(0, 1), min_size=3, max_size=3)


@given(st.lists(ROW, min_size=1, max_size=8), ROW)
def test_improvement_is_what_the_hypervolume_grows_by(front: list[list[float]], point: list[float]) -> None:
    """What a point adds is the hypervolume with it less the one without it."""
    known, added = np.array(front), np.array(point)
    grown = moocore.hypervolume(np.vstack([known, added]), ref=[1.0] * 3) - moocore.hypervolume(known, ref=[1.0] * 3)
    assert improvement(known, added) == pytest.approx(grown, abs=1e-12)


@pytest.mark.parametrize("strategy", ["predictive", "evolution"])
def test_a_space_with_few_plans_is_proposed_to_its_end(strategy: StrategyName) -> None:
    """Where there are fewer plans than are asked for, each is proposed once."""
    policy = {**TINY["policy"], "exchange_points": [0, 1], "fractions": [0.5, 1], "wires": ["fp32"], "lags": [0]}
    space = SearchSpace.from_data({**TINY, "policy": policy})
    screen, draw = Screen(space, CLUSTER), np.random.default_rng(0).integers
    plans = {screen(space.sample(lambda n: int(draw(n)))).key for _ in range(1500)}
    assert {found.key for found in explore(strategy, 10_000, space=space)} == plans


@pytest.mark.parametrize("strategy", ["random", "regularized-evolution"])
def test_nni_s_own_strategies_pay_for_nothing_known_or_infeasible(
    strategy: StrategyName, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """NNI's strategies get as many evaluations as are asked for, all of feasible plans, each once.

    A search that ends before the first children are bred, or before the learning rate falls, says so.
    """
    space = SearchSpace.from_data({**TINY, "constraints": {"max_payload_bytes": 1000}})
    recipe = RECIPES["digits"].changed("r", schedule="step", milestones=(1, 2), epochs=1, batch_size=64)
    result = search(
        tmp_path / "run",
        space=space,
        strategy=strategy,
        candidates=30,
        recipe=recipe,
        supernet_epochs=None,
        progress=True,
    )
    said = capsys.readouterr().err
    assert ("so 30 candidates make a random search" in said) == (strategy == "regularized-evolution")
    assert "the learning rate is to fall after epochs 1, 2, but there are 1: it never falls" in said
    found = load_candidates(result.run_dir)
    assert len({candidate.key for candidate in found}) == result.candidates == 30
    assert max(candidate.costs["payload_bytes"] for candidate in found) <= 1000
    assert result.rejected > 0


@pytest.mark.parametrize(("strategy", "candidates"), [("nsga2", 24), ("regularized-evolution", 100)])
def test_a_search_of_one_generation_is_said_to_be_random(strategy: StrategyName, candidates: int) -> None:
    """With as many candidates as the population has there is no child; with one more there is."""
    said = remark_on(strategy, candidates)
    assert said is not None
    assert said.startswith(f"strategy {strategy} starts with {candidates} random candidates")
    assert remark_on(strategy, candidates + 1) is remark_on("predictive", 1) is None


def test_an_unknown_strategy_is_refused(tmp_path: Path) -> None:
    """A strategy that is not there is refused with those that are, before anything is written."""
    assert get_args(StrategyName) == STRATEGIES
    with pytest.raises(SearchError, match=re.escape("unknown strategy 'luck'; allowed: predictive, evolution")):
        search(tmp_path / "run", strategy="luck")
    assert not (tmp_path / "run").exists()
