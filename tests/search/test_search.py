"""The search: the same seed gives the same front, whatever happens on the way; nothing infeasible is paid for."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from sepnas.errors import SearchError, SpecError, StorageError
from sepnas.nets.supernet import Supernet
from sepnas.plan.liveness import devices_used
from sepnas.search import Candidate, load_candidates, load_front, pick, run_search
from sepnas.search.accuracy_evaluator import AccuracyEvaluator
from sepnas.search.archive import SearchWarning
from sepnas.search.curves import SearchCurves
from sepnas.search.explorer import STRATEGIES
from sepnas.search.folder import archive_of, load_run
from sepnas.search.history import front_history
from sepnas.search.pareto import hypervolume, knee, pareto_front
from sepnas.search.policy_problem import PolicyProblem
from sepnas.search.progress import ProgressDisplay, SearchProgress
from sepnas.search.run import SearchResult
from sepnas.search.screen import Screen, check_feasible, first_genotypes
from sepnas.search.strategies import make_proposer
from sepnas.search.supernet_progress import CountedStep
from sepnas.separable.build import build_plan
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import Cluster, uniform_cluster
from sepnas.train.checkpoint import write_checkpoint
from sepnas.train.data import load_dataset
from sepnas.train.images import ImageData
from sepnas.train.recipe import Recipe, RecipeChanges
from sepnas.train.record import EpochRecord, read_history, write_history
from tests.limits import PROCESS_S

ROOT = Path(__file__).parents[2]
CANDIDATES = 40
TINY: dict[str, Any] = {
    "name": "tiny",
    "network": {
        "depth": 11,
        "image_size": 8,
        "in_channels": 1,
        "num_classes": 10,
        "stem_channels": 4,
        "num_devices": 2,
        "cardinality": 2,
        "bottleneck_width": 4,
        "output_channels": 8,
    },
    "policy": {
        "patterns": ["none", "star:0", "all-to-all"],
        "fractions": [0.25, 0.5, 1],
        "wires": ["fp32", "int8"],
        "lags": [0, 1],
        "merges": ["mean", "weighted"],
        "readouts": ["device:0", "mean"],
    },
}
SPACE = SearchSpace.from_data(TINY)
CLUSTER = uniform_cluster(2)
SILENT = CLUSTER.model_copy(update={"links": ()})
TALKATIVE = SearchSpace.from_data({**TINY, "policy": {"patterns": ["star:0"], "readouts": ["device:0"]}})
"""Every candidate sends something."""

SILENT_SPACE: dict[str, Any] = {**TINY, "policy": {"patterns": ["none"], "readouts": ["device:0"]}}
"""One device answers, and hears of no other."""


def tiny_data() -> ImageData:
    data = load_dataset("digits")
    return replace(data, train=data.train.take(torch.arange(192)), val=data.val.take(torch.arange(100)))


def search(out_dir: Path, **changes: Any) -> SearchResult:
    settings: dict[str, Any] = {"candidates": CANDIDATES, "supernet_epochs": 2, "seed": 3, "progress": False}
    settings |= changes
    recipe = RecipeChanges(settings.pop("supernet_epochs"), device_dropout=settings.pop("device_dropout", None))
    settings["changes"] = recipe
    space, cluster = settings.pop("space", SPACE), settings.pop("cluster", CLUSTER)
    return run_search(space, cluster, settings.pop("data", None) or tiny_data(), out_dir, **settings)


def told(candidates: list[Candidate]) -> list[dict[str, Any]]:
    """Everything about candidates but how long they took."""
    return [candidate.model_dump(exclude={"seconds"}) for candidate in candidates]


def constrained(**bounds: float) -> SearchSpace:
    return SearchSpace.from_data({**TINY, "constraints": bounds})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """An unbroken search."""
    return search(tmp_path_factory.mktemp("search") / "run")


def test_a_search_leaves_a_whole_run_folder(finished: SearchResult) -> None:
    """The run folder holds the settings, the supernet, every candidate and the front."""
    found = load_candidates(finished.run_dir)
    assert [candidate.index for candidate in found] == list(range(CANDIDATES))
    assert len({candidate.key for candidate in found}) == CANDIDATES == finished.candidates
    assert told(load_front(finished.run_dir)) == told(finished.front)
    assert (finished.run_dir / "supernet" / "last.safetensors").exists()
    assert set(finished.seconds) == {"supernet", "candidates", "accuracy"}


def test_the_front_is_what_nothing_dominates(finished: SearchResult) -> None:
    """A candidate is in the front exactly when no other is at least as good in all objectives and better in one."""

    def dominates(a: Candidate, b: Candidate) -> bool:
        pairs = [(-a.objectives["accuracy"], -b.objectives["accuracy"])]
        pairs += [(a.costs[name], b.costs[name]) for name in ("latency_s", "payload_bytes")]
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    found = load_candidates(finished.run_dir)
    best = [c for c in found if not any(dominates(other, c) for other in found)]
    fronts = [{tuple(c.objectives.values()) for c in group} for group in (best, finished.front)]
    assert fronts[0] == fronts[1]
    payloads = [candidate.costs["payload_bytes"] for candidate in finished.front]
    assert payloads == sorted(payloads)


def test_a_search_starts_with_the_named_policies(finished: SearchResult) -> None:
    """The first candidates are the ends of the space and the paper's policies that it can express."""
    first = [SPACE.architecture_of(genotype).policy for genotype in first_genotypes(SPACE)]
    found = [candidate.architecture.policy for candidate in load_candidates(finished.run_dir)[:4]]
    assert [p for p in found if p in first] == found


def test_a_kept_accuracy_is_that_of_the_supernet(finished: SearchResult, begun: Path) -> None:
    """The network that a candidate describes, evaluated again in another order, has the accuracy of its line.

    What training told last is that of the largest.
    """
    from sepnas.nets.supernet import Supernet
    from sepnas.train.checkpoint import read_checkpoint, restore_network

    supernet = Supernet(SPACE)
    path = begun / "supernet" / "last.safetensors"
    restore_network(supernet, read_checkpoint(path)[0], path)
    evaluator = AccuracyEvaluator(supernet, tiny_data(), 3, torch.device("cpu"))
    for candidate in reversed(finished.front):
        assert evaluator.accuracy(candidate.architecture) == candidate.objectives["accuracy"]
    told = read_history(path.parent)[-1].val_accuracy
    assert told == evaluator.accuracy(SPACE.architecture_of(SPACE.largest()))


def test_the_test_split_is_never_touched(begun: Path) -> None:
    """A search goes its whole way without a test split."""
    assert search(begun, resume=True, candidates=5, data=replace(tiny_data(), test=None)).candidates == 5


def test_the_same_seed_gives_the_same_front(finished: SearchResult, tmp_path: Path) -> None:
    """Two searches of one seed, supernet and all, agree in every candidate."""
    again = search(tmp_path / "again")
    assert told(load_candidates(again.run_dir)) == told(load_candidates(finished.run_dir))
    assert told(again.front) == told(finished.front)
    assert again == replace(finished, run_dir=again.run_dir, front=again.front)


@pytest.mark.parametrize("kept", [1, 23, CANDIDATES])
def test_a_resumed_search_equals_an_unbroken_one(finished: SearchResult, begun: Path, kept: int) -> None:
    """Whatever number of candidates was kept, going on gives the same candidates, and evaluates none of them twice."""
    lines = (finished.run_dir / "candidates.jsonl").read_text().splitlines(keepends=True)
    (begun / "candidates.jsonl").write_text("".join(lines[:kept]))
    resumed = search(begun, resume=True)
    assert told(resumed.front) == told(finished.front)
    assert (begun / "candidates.jsonl").read_text().splitlines(keepends=True)[:kept] == lines[:kept]
    assert told(load_candidates(begun)) == told(load_candidates(finished.run_dir))


@pytest.mark.parametrize(
    "strategy", [pytest.param(each, marks=() if each == "predictive" else pytest.mark.slow) for each in STRATEGIES]
)
def test_every_strategy_resumes_in_the_middle_of_a_batch(begun: Path, tmp_path: Path, strategy: str) -> None:
    """Each strategy, cut within a batch, goes on to the same candidates as if it had not been."""
    unbroken = tmp_path / "unbroken"
    shutil.copytree(begun, unbroken)
    for folder in (begun, unbroken):
        run = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**run, "strategy": strategy}))
    whole = search(unbroken, resume=True, strategy=strategy)
    lines = (unbroken / "candidates.jsonl").read_text().splitlines(keepends=True)
    (begun / "candidates.jsonl").write_text("".join(lines[:29]))
    resumed = search(begun, resume=True, strategy=strategy)
    assert len({candidate.key for candidate in load_candidates(unbroken)}) == whole.candidates == CANDIDATES
    assert told(load_candidates(begun)) == told(load_candidates(unbroken))
    assert told(resumed.front) == told(whole.front)


def test_a_longer_search_begins_with_the_shorter_one(finished: SearchResult, begun: Path) -> None:
    """A search that is resumed with more candidates keeps the ones that it had."""
    (begun / "candidates.jsonl").write_bytes((finished.run_dir / "candidates.jsonl").read_bytes())
    longer = search(begun, resume=True, candidates=CANDIDATES + 5)
    assert longer.candidates == CANDIDATES + 5
    assert told(load_candidates(begun))[:CANDIDATES] == told(load_candidates(finished.run_dir))


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.search.test_search import search
search(Path(sys.argv[1]), resume=True, progress=True)
"""


def start(folder: Path, home: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(home.parent)}
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_search_that_is_killed_goes_on(
    finished: SearchResult, begun: Path, tmp_path: Path, how: signal.Signals
) -> None:
    """After SIGKILL or Ctrl-C among the candidates, the resumed search equals an unbroken one; no file is left over."""
    home = tmp_path / "home"
    home.mkdir()
    process = start(begun, home)
    wait_for_lines(begun / "candidates.jsonl", 8, process)
    process.send_signal(how)
    out, err = process.communicate(timeout=PROCESS_S)
    assert process.returncode in (-how, 130, 1)
    assert not (begun / "front.json").exists()
    if how == signal.SIGINT:
        assert err.count("resume") == err.count(f"KeyboardInterrupt: completed work is kept in {begun}") == 1
    assert out == ""
    assert list(home.iterdir()) == []
    assert told(search(begun, resume=True).front) == told(finished.front)


@pytest.mark.slow
def test_ctrl_c_while_the_supernet_trains_leaves_a_run(
    finished: SearchResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After Ctrl-C in training, which alone says how to go on, the resumed search equals an unbroken one."""
    folder = tmp_path / "run"
    calls = 0

    def interrupt(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 4:  # in the second epoch
            raise KeyboardInterrupt
        return step(*arguments)

    import sepnas.train.supernet as supernet

    step_class = supernet.SandwichStep
    step = step_class(SPACE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sepnas.search.run.SandwichStep", lambda *_, **__: interrupt)
        with pytest.raises(KeyboardInterrupt, match="continue with resume=True"):
            search(folder, progress=True)
    assert "resume" not in capsys.readouterr().err
    assert told(search(folder, resume=True).front) == told(finished.front)


def test_a_damaged_line_is_named_and_the_rest_kept(finished: SearchResult, begun: Path) -> None:
    """Damaged lines are named in a warning, all others are kept, and only what was lost is evaluated again."""
    lines = (finished.run_dir / "candidates.jsonl").read_text().splitlines(keepends=True)
    lines[4] = "{" + lines[4]
    lines[9] = lines[9].replace("point0.wire", "point0.wine")
    path = begun / "candidates.jsonl"
    path.write_text("".join(lines) + lines[3][:40])
    with pytest.warns(SearchWarning) as caught:
        kept = load_candidates(begun)
    assert [re.search(r"line (\d+)", str(w.message))[1] for w in caught] == ["5", "10", f"{CANDIDATES + 1}"]  # type: ignore[index]
    assert len(kept) == CANDIDATES - 2
    with pytest.warns(SearchWarning, match="is damaged and left out"):
        again = search(begun, resume=True)
    assert told(again.front) == told(finished.front)
    assert path.read_text().count("\n") == CANDIDATES
    assert told(load_candidates(begun)) == told(load_candidates(finished.run_dir))


def test_a_candidate_round_trips(finished: SearchResult) -> None:
    """A candidate's line gives the candidate back."""
    for candidate in load_candidates(finished.run_dir)[:5]:
        assert Candidate.from_line(candidate.line(), SPACE) == candidate
        assert "architecture" not in json.loads(candidate.line())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 4}, "`seed` was 3 and is now 4"),
        ({"strategy": "nsga2"}, "`strategy` was 'predictive' and is now 'nsga2'"),
        ({"supernet_epochs": 3}, "`recipe.epochs` was 2 and is now 3"),
        ({"cluster": uniform_cluster(2, latency_s=1.0)}, "`cluster.links.0.latency_s` was 0.0005 and is now 1.0"),
        ({"space": constrained(max_payload_bytes=10**6)}, "`space.constraints.max_payload_bytes` was None"),
        ({"data": replace(tiny_data(), val=tiny_data().val.take(torch.arange(50)))}, "`data_sha256` was"),
    ],
)
def test_a_resume_with_other_settings_is_refused(finished: SearchResult, changes: dict[str, Any], said: str) -> None:
    """A resumed search with another space, cluster, seed, recipe or data is refused, naming what differs."""
    with pytest.raises(SearchError, match=re.escape(said)):
        search(finished.run_dir, resume=True, **changes)


def test_a_search_knows_its_data_by_their_content(finished: SearchResult, begun: Path) -> None:
    """The same images under another name are the same search; commands that go on from here get the new name."""
    renamed, recipe = replace(tiny_data(), name="folder:elsewhere/"), load_run(begun).recipe
    found = search(begun, resume=True, data=renamed, recipe=recipe)
    assert told(found.front) == told(finished.front)
    assert load_run(begun).data == "folder:elsewhere/"


def test_a_second_search_in_one_folder_is_refused(finished: SearchResult) -> None:
    """A folder that holds a search is not begun anew."""
    with pytest.raises(SearchError, match="already holds a search; resume it"):
        search(finished.run_dir)


def test_a_search_is_not_resumed_with_fewer_candidates(finished: SearchResult, begun: Path) -> None:
    """Fewer candidates than are evaluated would shrink the front: refused, with the number that is there."""
    (begun / "candidates.jsonl").write_bytes((finished.run_dir / "candidates.jsonl").read_bytes())
    with pytest.raises(SearchError, match=f"{CANDIDATES} candidates are evaluated already"):
        search(begun, resume=True, candidates=5)


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_an_impossible_seed_is_refused(tmp_path: Path, seed: int) -> None:
    """A seed that the random generators do not take is refused before anything is written."""
    with pytest.raises(SearchError, match=f"`seed` must be within 0..4294967295, got {seed}"):
        search(tmp_path / "run", seed=seed)
    assert not (tmp_path / "run").exists()


def test_reading_a_damaged_archive_writes_nothing(begun: Path, finished: SearchResult) -> None:
    """Who only looks at a search leaves its file alone, for the search may be writing it."""
    text = (finished.run_dir / "candidates.jsonl").read_text()[:-20]
    (begun / "candidates.jsonl").write_text(text)
    with pytest.warns(SearchWarning):
        assert len(load_candidates(begun)) == CANDIDATES - 1
    assert (begun / "candidates.jsonl").read_text() == text


def test_accuracies_of_other_weights_are_refused(begun: Path) -> None:
    """A supernet that is not the one of the kept candidates is refused."""
    run = json.loads((begun / "run.json").read_text())
    (begun / "run.json").write_text(json.dumps({**run, "supernet_sha256": "0" * 64}))
    with pytest.raises(SearchError, match="weights are not those"):
        search(begun, resume=True)


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_space_has_candidates_within_its_bounds(path: Path) -> None:
    """Every shipped space can be searched on equal devices, and what breaks its bounds is rejected."""
    space = SearchSpace.load(path)
    cluster = uniform_cluster(space.num_devices)
    check_feasible(space, cluster, 0)
    bounds = [name for name, value in space.constraints if value is not None]
    assert set(Screen(space, cluster)(space.largest()).excess) == set(bounds)


def test_nothing_infeasible_is_paid_for(tmp_path: Path) -> None:
    """Every evaluated candidate keeps the bounds; what breaks them is rejected by the simulator alone."""
    result = search(tmp_path / "run", space=constrained(max_payload_bytes=300), supernet_epochs=1, candidates=15)
    assert max(candidate.costs["payload_bytes"] for candidate in load_candidates(result.run_dir)) <= 300
    assert result.rejected > 0


def test_candidates_that_leave_devices_idle_are_left_out(tmp_path: Path) -> None:
    """With `devices_used` every evaluated candidate uses that many devices, and others cost no evaluation."""
    readers = {**TINY, "policy": {**TINY["policy"], "readouts": ["device:0"]}, "constraints": {"devices_used": 2}}
    space = SearchSpace.from_data(readers)
    assert Screen(space, CLUSTER)(space.smallest()).excess == {"devices_used": 1.0}
    result = search(tmp_path / "run", space=space, supernet_epochs=1, candidates=10)
    found = load_candidates(result.run_dir)
    assert {devices_used(build_plan(candidate.architecture)) for candidate in found} == {(0, 1)}
    assert result.rejected > 0


def test_more_devices_than_there_are_cannot_be_asked_for() -> None:
    """A bound of three used devices in a space of two is refused."""
    with pytest.raises(SpecError, match=r"`constraints\.devices_used` is 3, but `network` has 2 devices"):
        constrained(devices_used=3)


@pytest.mark.parametrize(
    ("space", "cluster", "said"),
    [
        (constrained(max_latency_s=1e-9), CLUSTER, "`constraints.max_latency_s` (=1e-09) excludes 505"),
        (constrained(max_memory_bytes=10), CLUSTER, "`constraints.max_memory_bytes` (=10) excludes 505"),
        (SPACE, uniform_cluster(2, memory_bytes=100), "memory of the cluster's devices excludes 505"),
        (
            TALKATIVE,
            CLUSTER.model_copy(update={"links": ()}),
            "the lack of links in the cluster (device0-device1) exclu",
        ),
        (TALKATIVE, CLUSTER.model_copy(update={"links": ()}), "; add the links to the cluster (`between: all`"),
        (
            SearchSpace.from_data({**SILENT_SPACE, "constraints": {"devices_used": 2}}),
            CLUSTER,
            "`constraints.devices_used` (=2) excludes 503; require fewer devices, or offer the read-out mean",
        ),
        (SPACE, uniform_cluster(1), "needs 2 devices, but cluster 'uniform' has 1"),
    ],
)
def test_a_space_without_a_feasible_candidate_is_refused(
    space: SearchSpace, cluster: Cluster, said: str, tmp_path: Path
) -> None:
    """When nothing is feasible the error says which bound excludes how many, before anything is trained."""
    with pytest.raises(SearchError, match=re.escape(said)):
        search(tmp_path / "run", space=space, cluster=cluster)
    assert not (tmp_path / "run").exists()


def test_a_search_goes_on_without_a_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cluster that lacks a link is told of and searched to the end; hypervolumes are from what can be priced."""
    result = search(tmp_path / "run", cluster=SILENT, supernet_epochs=1, candidates=2, progress=True)
    assert "no link in cluster 'uniform': device0-device1; policies with messages over it are left out" in (
        capsys.readouterr().err
    )
    assert result.candidates >= 1
    assert all(candidate.costs["payload_bytes"] == 0 for candidate in result.front)


def test_policies_without_a_link_are_infeasible() -> None:
    """On a cluster without links only policies that send nothing are left."""
    check_feasible(SPACE, SILENT, 0)
    for strategy in ("predictive", "nsga2"):
        found = make_proposer(strategy, PolicyProblem(Screen(SPACE, SILENT), 0), seed=0).propose()
        assert found is not None
        assert found.costs["payload_bytes"] == 0
        assert found.excess == {}


def test_a_small_space_is_searched_to_its_end(tmp_path: Path) -> None:
    """A space with fewer plans than candidates asked for gives each plan once and ends."""
    policy = {"exchange_points": [1], "patterns": ["none", "star:0"], "readouts": ["device:0"]}
    result = search(tmp_path / "run", space=SearchSpace.from_data({**TINY, "policy": policy}), supernet_epochs=1)
    assert result.candidates == 2


def test_data_that_do_not_fit_the_space_are_refused(tmp_path: Path) -> None:
    """Images of another size than the space's are refused with both numbers."""
    with pytest.raises(SearchError, match=re.escape("`network.image_size` 8, but data set 'digits' has 10")):
        search(tmp_path / "run", data=load_dataset("digits", image_size=10))


def test_progress_tells_of_every_candidate(begun: Path) -> None:
    """A callback hears of each candidate: how many, the front's size, a hypervolume that never falls, time left."""
    heard: list[SearchProgress] = []
    search(begun, resume=True, candidates=12, progress=heard.append)
    assert [progress.done for progress in heard] == list(range(1, 13))
    assert [p.hypervolume for p in heard] == sorted(p.hypervolume for p in heard)
    assert heard[-1].seconds_left == 0
    assert heard[-1].front_size == len(load_front(begun))
    assert heard[-1].best_accuracy == max(c.objectives["accuracy"] for c in load_front(begun))
    assert heard[-1].knee_payload_bytes == knee(load_front(begun)).costs["payload_bytes"]
    assert heard[-1].duplicates > 0


def test_progress_goes_on_where_the_search_was(begun: Path, finished: SearchResult) -> None:
    """A resumed search counts what was kept, its seconds too, and tells how long the rest takes, then each new one."""
    lines = (finished.run_dir / "candidates.jsonl").read_text().splitlines(keepends=True)
    (begun / "candidates.jsonl").write_text("".join(lines[:23]))
    kept, heard = load_candidates(begun), list[SearchProgress]()
    resumed = search(begun, resume=True, progress=heard.append)
    assert resumed.seconds["candidates"] > resumed.seconds["accuracy"] > sum(candidate.seconds for candidate in kept)
    assert [progress.done for progress in heard] == list(range(23, CANDIDATES + 1))
    assert (heard[0].front_size, heard[0].total) == (len(pareto_front(kept)), CANDIDATES)
    assert heard[0].seconds_left == pytest.approx(17 * sum(candidate.seconds for candidate in kept) / 23)
    assert heard[0].hypervolume <= heard[1].hypervolume
    assert heard[-1].front_size == len(finished.front)


def test_a_supernet_may_have_an_average_of_its_weights(tmp_path: Path) -> None:
    """What is validated after each epoch is the average, and so is what the candidates take their weights from."""
    recipe = Recipe(name="averaged", epochs=2, batch_size=64, learning_rate=0.1, ema_decay=0.9)
    result = search(tmp_path, recipe=recipe, supernet_epochs=None, supernet_only=True)
    assert result.supernet_trained
    kept = load_file(tmp_path / "supernet" / "last.safetensors").items()
    network = Supernet(SPACE)
    network.load_state_dict({k.removeprefix("ema/"): x for k, x in kept if k.startswith("ema/")})
    evaluated = AccuracyEvaluator(network, tiny_data(), 3, torch.device("cpu")).accuracy(
        SPACE.architecture_of(SPACE.largest())
    )
    assert read_history(tmp_path / "supernet")[-1].val_accuracy == evaluated


def test_a_finished_search_that_is_resumed_says_that_it_is(begun: Path, finished: SearchResult) -> None:
    """When nothing is left to evaluate, the only message is that everything is done."""
    (begun / "candidates.jsonl").write_bytes((finished.run_dir / "candidates.jsonl").read_bytes())
    heard: list[SearchProgress] = []
    assert told(search(begun, resume=True, progress=heard.append).front) == told(finished.front)
    assert [(p.done, p.front_size, p.seconds_left) for p in heard] == [(CANDIDATES, len(finished.front), 0)]


@pytest.mark.parametrize(("epochs_done", "steps_done"), [(0, 0), (2, 0), (2, 1)])
def test_the_supernet_goes_on_where_it_was(epochs_done: int, steps_done: int, tmp_path: Path) -> None:
    """The training's lines begin with the epochs that an earlier run did, and know what an epoch takes; steps of an
    epoch that was begun are not taken again."""
    run, console = tmp_path / "supernet", Console(file=io.StringIO(), width=80)
    history = [EpochRecord(n, 1.0, 0.25 * n, 0.1, 10.0, 30.0) for n in range(1, 5)]
    with ProgressDisplay(True, console) as display:
        step = CountedStep(lambda *_: torch.zeros(()), run, steps=3, epochs=4, display=display)
        for epoch in range(epochs_done, 4):
            before = steps_done if epoch == epochs_done else 0
            if epoch:
                write_history(run, tuple(history[:epoch]))
                write_checkpoint(run / "last.safetensors", {"epoch/losses": torch.zeros(before)}, {})
            for _ in range(before, 3):
                step(*[None] * 4)  # type: ignore[arg-type]
        step.finish(history)
    told_of = [
        "supernet: epoch 0/4",
        "supernet: epoch 1/4, validation 25.00%, 90 s left",
        f"supernet: epoch 2/4, validation 50.00%, {60 - 10 * steps_done} s left",
        "supernet: epoch 3/4, validation 75.00%, 30 s left",
        "supernet: epoch 4/4, validation 100.00%",
    ]
    assert console.file.getvalue().splitlines() == told_of[epochs_done:]  # type: ignore[attr-defined]


@pytest.mark.parametrize("terminal", [True, False])
def test_the_display_tells_the_same_in_a_terminal_and_elsewhere(terminal: bool) -> None:
    """Live in a terminal of 80 columns, or as plain lines, stands all of it, and nothing is cut off."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    progress = SearchProgress(
        done=700, total=9000, front_size=55, hypervolume=0.25, seconds_left=7300.0, best_accuracy=0.9612,
        knee_payload_bytes=123456, rejected=12, duplicates=345,
    )  # fmt: skip
    with ProgressDisplay(True, console) as display:
        display.show(progress)
    shown = console.file.getvalue()
    for words in (
        "700/9000",
        "front 55, hypervolume 0.2500, 2 h 2 min left",
        "best 96.12%, knee 123,456 payload bytes; left out: 12 rejected, 345 duplicates",
    ):
        assert words in shown
    assert ("\x1b" in shown) == terminal


def test_the_last_state_is_said_also_when_a_search_ends_early() -> None:
    """Where a space has fewer candidates than were asked for, the last plain line tells of all that were evaluated."""
    console = Console(file=io.StringIO(), width=80)
    with ProgressDisplay(True, console) as display:
        for done in (1, 2, 3):
            display.show(SearchProgress(done=done, total=9, front_size=1, hypervolume=0.5, seconds_left=1.0))
    assert [line[:14] for line in console.file.getvalue().splitlines()] == ["candidates 1/9", "candidates 3/9"]


def test_a_full_disk_is_said(tmp_path: Path, finished: SearchResult) -> None:
    """A candidate that cannot be written stops the search with the file's name."""
    archive = archive_of(tmp_path / "missing", SPACE)
    with pytest.raises(StorageError, match=r"candidates\.jsonl: cannot be written"):
        archive.append(finished.front[0])


def made(index: int, accuracy: float, latency_s: float, payload_bytes: float) -> Candidate:
    costs = {"latency_s": latency_s, "payload_bytes": payload_bytes}
    return Candidate(
        index=index,
        key=str(index),
        genotype={},
        objectives={"accuracy": accuracy, **costs},
        costs=costs,
        architecture=SPACE.architecture_of(SPACE.smallest()),
    )


FRONT = [made(0, 0.5, 0.1, 0), made(1, 0.9, 0.2, 100), made(2, 0.92, 0.9, 1000)]


def test_hypervolume_of_a_known_front() -> None:
    """Hypervolume is the dominated part of the box from the ideal to the worst point, here by hand."""
    worst = {"latency_s": 1.0, "payload_bytes": 1000.0}
    assert hypervolume(FRONT[:1], worst) == pytest.approx(0.5 * 0.9 * 1.0)
    assert hypervolume(FRONT[:2], worst) == pytest.approx(0.5 * 0.9 + 0.9 * 0.8 * 0.9 - 0.5 * 0.8 * 0.9)
    assert hypervolume([], worst) == 0


def test_dominated_candidates_leave_the_front() -> None:
    """Of equals the first stays; what is worse in one and better in none goes."""
    twin, worse = made(3, 0.9, 0.2, 100), made(4, 0.9, 0.2, 101)
    assert pareto_front([*FRONT, twin, worse]) == FRONT


@pytest.mark.parametrize(
    ("bounds", "index"),
    [
        ({}, 1),
        ({"max_latency_s": 0.15}, 0),
        ({"max_payload_bytes": 5000}, 2),
        ({"max_payload_bytes": 999}, 1),
        ({"min_accuracy": 0.91}, 2),
        ({"min_accuracy": 0.4, "max_latency_s": 0.5}, 1),
    ],
)
def test_picking_takes_the_most_accurate_within_bounds(bounds: dict[str, float], index: int) -> None:
    """Bounds leave the most accurate candidate that keeps them; without bounds it is the knee."""
    assert pick(FRONT, **bounds) is FRONT[index]
    assert knee(FRONT) is FRONT[1]


def test_picking_nothing_names_the_nearest() -> None:
    """When no candidate fits, the error gives the numbers of the nearest."""
    with pytest.raises(SearchError, match=r"latency_s <= 0\.19 and accuracy >= 0\.8; the nearest is candidate 1 with"):
        pick(FRONT, max_latency_s=0.19, min_accuracy=0.8)
    with pytest.raises(SearchError, match="empty"):
        pick([])


def test_an_unfinished_search_has_no_front(begun: Path, tmp_path: Path) -> None:
    """The front of a search that is not finished, or of no search, is refused with what to do."""
    with pytest.raises(SearchError, match="the search is not finished; resume it"):
        load_front(begun)
    with pytest.raises(SearchError, match="not the folder of a search"):
        load_front(tmp_path)


def scalars_of(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a search: the steps and values of each scalar."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_the_front_as_it_grows(finished: SearchResult) -> None:
    """Each candidate is a step with the front's hypervolume, size, best accuracy, knee, and the rate."""
    scalars = scalars_of(finished.run_dir)
    assert all([step for step, _ in values] == list(range(1, CANDIDATES + 1)) for values in scalars.values())
    last = {tag: values[-1][1] for tag, values in scalars.items()}
    assert last["front/hypervolume"] == pytest.approx(finished.hypervolume)
    assert last["front/size"] == len(finished.front)
    assert last["front/best_accuracy"] == pytest.approx(max(c.objectives["accuracy"] for c in finished.front))
    assert last["front/knee_payload_bytes"] == knee(finished.front).costs["payload_bytes"]
    assert last["candidates_per_s"] > 0


@pytest.mark.parametrize("kept", [13, 16])
def test_a_resumed_search_goes_on_in_tensorboard(begun: Path, finished: SearchResult, kept: int) -> None:
    """After an interruption, also amid a batch, each step stands once and has the value of an unbroken run."""
    lines = (finished.run_dir / "candidates.jsonl").read_text().splitlines(keepends=True)
    (begun / "candidates.jsonl").write_text("".join(lines[:kept]))
    search(begun, resume=True)
    resumed, unbroken = scalars_of(begun), scalars_of(finished.run_dir)
    for tag in unbroken.keys() - {"candidates_per_s"}:
        assert resumed[tag] == unbroken[tag]
    rates = [step for step, _ in resumed["candidates_per_s"]]
    assert rates == [step for step in range(1, CANDIDATES + 1) if step != kept]


def test_tensorboard_is_drawn_anew_where_it_is_gone(begun: Path, finished: SearchResult) -> None:
    """Where the curves of the kept candidates are gone, a resumed search draws them from the archive."""
    lines = (finished.run_dir / "candidates.jsonl").read_text().splitlines(keepends=True)
    (begun / "candidates.jsonl").write_text("".join(lines[:13]))
    subprocess.run(["rm", "-r", str(begun / "tensorboard")], check=True)
    search(begun, resume=True)
    assert scalars_of(begun)["front/size"] == scalars_of(finished.run_dir)["front/size"]


def test_a_step_waits_for_the_candidates_before_it(tmp_path: Path) -> None:
    """Candidates that come in out of order, as from several machines, are drawn in the order of their numbers."""
    worst = {"latency_s": 1.0, "payload_bytes": 1000.0}
    with SearchCurves(tmp_path, [], worst) as curves:
        for index in (2, 0, 1):
            curves.add(FRONT[index], 1.0)
    steps = front_history(FRONT, worst)
    assert [value for _, value in scalars_of(tmp_path)["front/size"]] == [step.front_size for step in steps]
