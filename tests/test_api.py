"""sepnas from Python: the examples in its docstrings, its entries and what importing it costs."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import sepnas
from sepnas import api
from sepnas.errors import DataError, DeploymentError, SpecError, TrainingError
from sepnas.separable.architecture import named_architecture
from sepnas.separable.build import build_plan
from sepnas.spec.evaluation import EvaluationFile
from sepnas.train.data import load_dataset
from sepnas.train.evaluation import SplitName, evaluate_split

SPACE = Path(__file__).parents[1] / "search_spaces" / "demo.yaml"
EXAMPLES = (
    "create_model",
    "prepare_training",
    "train",
    "load",
    "export",
    "evaluate",
    "describe",
    "simulate",
    "search",
    "import_network",
    "partition",
    "separate",
    "separate_and_train",
    "explore",
    "assign",
)
"""In this order each finds the files of those before it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples wrote; each printed what it says."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "space.yaml").write_text(SPACE.read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in EXAMPLES:
            run_example(name)
    return folder


def run_example(name: str) -> None:
    (test,) = doctest.DocTestFinder(recurse=False).find(
        getattr(api, name), name, module=api, globs=vars(api) | {"torch": torch}
    )
    told: list[str] = []
    failed, tried = doctest.DocTestRunner(verbose=False).run(test, out=told.append)
    assert tried, f"{name} has no example"
    assert not failed, "".join(told)


def test_every_example_prints_what_it_says(folder: Path) -> None:
    """The examples of all functions run one after the other and write a run, a deployment and a search."""
    assert {path.name for path in folder.iterdir()} >= {"training", "deployment", "search"}


def test_every_entry_has_an_example_types_and_an_object_to_return() -> None:
    """Each function says what it takes and returns; what it returns is no tuple."""
    functions = [name for name in api.__all__ if inspect.isfunction(getattr(api, name))]
    assert set(functions) == set(EXAMPLES)
    for name in functions:
        signature = inspect.signature(getattr(api, name))
        assert signature.return_annotation not in (inspect.Signature.empty, "None")
        assert "tuple" not in signature.return_annotation
        assert all(parameter.annotation for parameter in signature.parameters.values())


def test_a_session_answers_what_the_network_answers(folder: Path) -> None:
    """A deployment that was exported from Python runs, and its answers are those of the loaded network."""
    from sepnas.local.processes import LocalWorkers

    network, images_NCHW = sepnas.load(folder / "training"), torch.randn(3, 1, 8, 8)
    with (
        LocalWorkers(folder / "deployment", 2) as workers,
        sepnas.Session(folder / "deployment", workers.hosts) as session,
    ):
        answers = torch.from_numpy(session.infer(images_NCHW.numpy()))
    with torch.no_grad():
        torch.testing.assert_close(answers, network(images_NCHW), rtol=1e-5, atol=1e-5)


def test_a_run_is_evaluated_on_the_splits_of_its_training(folder: Path, tmp_path: Path) -> None:
    """Accuracy and digest of each split of the digits are those that `sepnas train` measures; both are kept."""
    digits, network = load_dataset("digits"), sepnas.load(folder / "training")
    splits: tuple[SplitName, ...] = ("validation", "test")
    for split in splits:
        found = api.evaluate(folder / "training", split=split, out=tmp_path / "e.json")
        wanted = evaluate_split(network, digits, split, "")
        assert found.scores.accuracy == pytest.approx(wanted.accuracy)
        assert found.content_sha256 == wanted.content_sha256
        assert (found.images, found.data, found.split) == (359, "digits", split)
    assert [each.split for each in EvaluationFile.load(tmp_path / "e.json").evaluations] == list(splits)


def test_a_run_is_imported_as_a_graph(folder: Path) -> None:
    """A trained network becomes a graph that answers the same, with its classes and normalisation."""
    from sepnas.nets.graph import load_graph_network

    imported = api.import_network(str(folder / "training"), folder / "imported")
    traits = imported.graph.traits
    assert (traits.classes[:2], len(traits.mean), traits.size) == (("0", "1"), 1, (8, 8))
    x_NCHW = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        found, wanted = load_graph_network(folder / "imported")(x_NCHW), sepnas.load(folder / "training")(x_NCHW)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_pretrained_weights_are_those_of_the_run(folder: Path) -> None:
    """A model takes the weights of a run, under another policy too; another network is refused."""
    trained = sepnas.load(folder / "training")
    model = sepnas.create_model(trained.architecture, wire="fp16", pretrained=folder / "training")
    assert model.architecture.policy != trained.architecture.policy
    for name, weights in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], weights), name
    with pytest.raises(TrainingError, match="only the policy may differ"):
        sepnas.create_model("resnext20_4x4d", devices=2, pretrained=folder / "training")
    with pytest.raises(TrainingError, match="no classifier on device 1"):
        sepnas.create_model(trained.architecture, policy="none", pretrained=folder / "training")


def test_the_same_seed_gives_the_same_model() -> None:
    """Random weights depend on the seed alone, and torch's own generator stays as it was."""
    before = torch.get_rng_state()
    first, same, other = (sepnas.create_model("resnext11_2x4d", devices=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [torch.cat([x.flatten() for x in model.parameters()]) for model in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_prediction_is_that_of_the_plan() -> None:
    """The prediction holds the plan, its bytes are the plan's, and options add what they ask for."""
    architecture = named_architecture("resnext20_4x4d", 4, "hand-made")
    found = sepnas.simulate(architecture, percent=95, in_flight=2)
    assert is_dataclass(found)
    assert found.payload_bytes == build_plan(architecture).payload_bytes()
    assert found.percentile is not None
    assert found.stream is not None
    assert found.percentile.latency_s >= found.latency_s
    assert found.stream.in_flight == 2
    assert set(found.to_data()) >= {"latency_s", "critical_path_s", "percentile", "stream"}


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda out: sepnas.create_model("resnext21_4x4d"), SpecError, "depth"),
        (lambda out: sepnas.create_model("resnext20_4x4d", policy="loud"), SpecError, "unknown policy 'loud'"),
        (lambda out: sepnas.simulate(out / "none.json"), SpecError, "none.json"),
        (lambda out: sepnas.export(out, out / "d"), DeploymentError, "not a finished training run"),
        (
            lambda out: api.train(named_architecture("resnext20_4x4d", 2, "none"), out / "t"),
            DataError,
            "no data set is named",
        ),
    ],
)
def test_errors_say_what_would_have_been_right(call, error: type[Exception], text: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Wrong arguments raise sepnas' own errors."""
    with pytest.raises(error, match=text):
        call(tmp_path)


def test_importing_sepnas_imports_no_torch() -> None:
    """`import sepnas`, the names of its entries and a simulation load neither torch nor NNI."""
    code = (
        "import sys, sepnas\n"
        "assert not {'numpy', 'pydantic', 'rich'} & set(sys.modules), 'import sepnas imports libraries'\n"
        "sepnas.create_model, sepnas.load, sepnas.export, sepnas.Session, sepnas.AsyncSession, sepnas.api.search\n"
        "sepnas.simulate('resnext20_4x4d', devices=2)\n"
        "assert not {'torch', 'nni', 'timm', 'torchvision'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_entry_is_an_attribute_error() -> None:
    """What sepnas has not is an `AttributeError`, as of any module."""
    with pytest.raises(AttributeError, match="no attribute 'create_modle'"):
        sepnas.create_modle  # noqa: B018


NET = "resnext11_2x4d"
BAD_ARGUMENTS = [
    *[(api.simulate, (NET,), {"batch": value}) for value in (0, -1, float("nan"), 1.5, True, 10**30, "1", None)],
    *[(api.simulate, (NET,), {"devices": value}) for value in (0, -1, 1.5, True, 65, 10**5000)],
    (api.simulate, (NET,), {"percent": float("nan")}),
    (api.simulate, (NET,), {"percent": "95"}),
    (api.simulate, (NET,), {"in_flight": 0}),
    (api.describe, (NET,), {"devices": 0}),
    *[(api.create_model, (NET,), {"classes": value}) for value in (0, 1, -1, 10.0, 10**9)],
    (api.create_model, (NET,), {"image_size": 0}),
    (api.create_model, (NET,), {"seed": 1.5}),
    (api.prepare_training, (NET,), {"devices": 0}),
    *[(api.train, (NET, "out"), {"stop_after_s": value}) for value in (float("nan"), float("inf"), -1, "1", True)],
    *[(api.train, (NET, "out"), {"threads": value}) for value in (0, -3, 1.5)],
    (api.train, (NET, "out"), {"seed": 1.5}),
    *[(api.search, (SPACE, "out"), {"candidates": value}) for value in (0, 1.5, float("nan"))],
    (api.search, (SPACE, "out"), {"batch": 0}),
    (api.search, (SPACE, "out"), {"threads": -3}),
    (api.search, (SPACE, "out"), {"stop_after_s": float("nan")}),
    (api.export, ("run", "out"), {"on_missing": "x"}),
    (api.export, ("run", "out"), {"services": ["x"]}),
    (api.export, ("run", "out"), {"services": [[]]}),
]


@pytest.mark.parametrize(("function", "given", "argument"), BAD_ARGUMENTS)
def test_an_argument_outside_its_range_is_refused_at_once(function, given, argument, tmp_path, monkeypatch):
    """The error names the argument, its value and the allowed range in one line, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    (name,) = argument
    with pytest.raises(SpecError, match=rf"^`{name}` must be (an integer|a number|one of) ?.*, got ") as error:
        function(*given, **argument)
    assert len(str(error.value)) < 200
    assert not [*tmp_path.iterdir()]


def test_an_integer_of_numpy_is_an_integer() -> None:
    """Counts that numpy computed are taken as Python's."""
    assert api.simulate(NET, devices=np.int64(2), batch=np.int32(2)).batch == 2


def test_scales_are_chosen_as_on_the_command_line() -> None:
    """With learned scales messages carry no range, which is 8 bytes a sample; a policy without levels has none."""
    network = {"devices": 2, "wire": "int8"}
    own, learned = (api.describe("resnext11_2x4d", **network, learned_scales=chosen) for chosen in (False, True))
    messages = (own.payload_bytes - learned.payload_bytes) / 8
    assert messages == int(messages) > 0
    found = api.simulate("resnext11_2x4d", **network, learned_scales=True)
    assert found.payload_bytes == learned.payload_bytes
    with pytest.raises(SpecError, match="learned_scales=True"):
        api.simulate("resnext11_2x4d", devices=2, learned_scales=True)
