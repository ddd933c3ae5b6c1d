"""The fine-tuned network that separated ones are compared with is the same wherever it is made of the kept file."""

from __future__ import annotations

import importlib
import json
import lzma
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from sepnas import api
from sepnas.errors import CheckpointError
from sepnas.nets.trainable import load_trainable
from sepnas.train.recipe import RecipeChanges
from sepnas.train.source import DataSource
from tests.train.test_data import make_folder

FLOWERS = Path(__file__).parents[2] / "experiments" / "separate-flowers"
NAME = "reference-1-epochs-seed-0"


def coloured() -> nn.Sequential:
    """Two convolutions of coloured images, and scores for ten classes."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )


def import_coloured(out: Path, seed: int = 0) -> Path:
    traits = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    api.import_network(f"{__name__}:coloured", out, input_shapes=[(3, 8, 8)], traits=traits, seed=seed)
    return out


@pytest.fixture(scope="module")
def flowers() -> Iterator[dict[str, ModuleType]]:
    """The modules of the separate-flowers experiment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FLOWERS)
        yield {name: importlib.import_module(name) for name in ("kept", "run")}
    for name in ("kept", "run"):  # names that another experiment may have too
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def kept(flowers: dict[str, ModuleType]) -> ModuleType:
    return flowers["kept"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    """Coloured images of two classes."""
    root = tmp_path_factory.mktemp("images")
    return DataSource(f"folder:{make_folder(root / 'pets', ('train', 'val', 'test'), mode='RGB')}", root=root)


@pytest.fixture(scope="module")
def made(kept: ModuleType, data: DataSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network ``start``, a fine-tuned one ``run`` with a new head, and the file that keeps it."""
    folder = tmp_path_factory.mktemp("made")
    start = import_coloured(folder / "start")
    api.train(start, folder / "run", data=data, head="new", changes=RecipeChanges(epochs=1))
    kept.keep(folder / "run", start, folder / "kept.xz", 0)
    return folder


def test_a_network_that_is_made_again_answers_as_it_did(kept: ModuleType, made: Path, tmp_path: Path) -> None:
    """Its graph is the same, and its scores are, to what eight bits leave of the differences."""
    assert not kept.is_made(made / "kept.xz", tmp_path)
    kept.make(made / "kept.xz", made / "start", tmp_path)
    assert kept.is_made(made / "kept.xz", tmp_path)
    networks = [load_trainable(folder) for folder in (made / "run", tmp_path)]
    assert networks[0].graph == networks[1].graph
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        trained, again = (network(images) for network in networks)
    assert not torch.equal(trained, again)
    torch.testing.assert_close(again, trained, rtol=0, atol=0.02 * float(trained.abs().max()))


def test_what_is_no_kept_network_is_refused(kept: ModuleType, made: Path, tmp_path: Path) -> None:
    """A file that is missing, cut off or changed, and one of something else, is named; nothing is written."""
    good, file = (made / "kept.xz").read_bytes(), tmp_path / "file.xz"
    changed = good[:-200] + bytes([good[-200] ^ 1]) + good[-199:]
    other = lzma.compress((made / "run" / "last.safetensors").read_bytes())
    wrongs = {
        "cannot be read": None, "cut off": good[:-200], "damaged": changed, "no file of xz": b"something",
        "no checkpoint": lzma.compress(b"something"), "`kept` must be 1, got None": other,
    }  # fmt: skip
    for said, content in wrongs.items():
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"file\.xz: .*{said}"):
            kept.make(file, made / "start", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_network_to_begin_with_is_refused(kept: ModuleType, made: Path, tmp_path: Path) -> None:
    """Differences from other weights would make another network."""
    other = import_coloured(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match=r"kept\.xz: holds differences from the weights of digest"):
        kept.make(made / "kept.xz", other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_with_other_weights_is_refused(kept: ModuleType, made: Path) -> None:
    """The fine-tuned network before it was rounded is not the one that is kept."""
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: are not the weights that .*kept\.xz holds"):
        kept.is_made(made / "kept.xz", made / "run")


@pytest.fixture
def experiment(
    flowers: dict[str, ModuleType], data: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Any]:
    """The experiment with the tiny network and one epoch, by the folder of its runs."""
    monkeypatch.setattr(flowers["run"], "NETWORK", f"{__name__}:coloured")
    settings, weights = tmp_path / "settings.json", tmp_path / "coloured.pth"
    torch.save(coloured().state_dict(), weights)
    settings.write_text(json.dumps({"data": data.name, "image_size": 8, "reference_epochs": 1, "seeds": [0]}))

    def made(out: str) -> Any:
        found = flowers["run"].Experiment(settings, tmp_path / out, weights, 1)
        found.source = replace(found.source, root=tmp_path)
        return found

    return made


def test_a_reference_is_trained_once(
    experiment: Callable[[str], Any], data: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own run is rounded too; elsewhere the file gives the same weights, to separate and to learn from."""
    first = experiment("first")
    trained, found = first.reference(0), first.found(NAME)
    assert found["val_accuracy"] == first.accuracy(trained, first.images.val, first.images)
    assert len(found["val_by_epoch"]) == 1
    monkeypatch.delattr(api, "train")
    again = experiment("second").reference(0)
    assert first.reference(0) == trained
    weights = [load_trainable(run).weights_by_name for run in (trained, again)]
    assert all(torch.equal(x, weights[1][name]) for name, x in weights[0].items())
    assert first.found(NAME) == found
    changes = RecipeChanges(epochs=1)
    tuned = api.separate_and_train(again, tmp_path / "cell", data, changes=changes, devices=2, budget=0.5)
    assert tuned.original_accuracy == found["val_accuracy"]


def test_a_finished_run_is_kept_afterwards(experiment: Callable[[str], Any]) -> None:
    """A run whose file was not kept is not trained again."""
    first = experiment("first")
    run = first.reference(0)
    [file] = (first.home / "found").glob("*.xz")
    history = (run / "history.jsonl").read_text()
    file.unlink()
    first.reference(0)
    assert file.is_file()
    assert (run / "history.jsonl").read_text() == history
