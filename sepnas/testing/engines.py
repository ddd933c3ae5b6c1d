"""The contract of an engine: it gives the same answers as onnxruntime, and refuses damaged graphs."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from sepnas.deployment.engines.kind import EngineKind, late
from sepnas.deployment.engines.registry import engines
from sepnas.errors import DeploymentError
from sepnas.runtime.engines.choice import usable_engines
from sepnas.runtime.engines.shard import Shard, load_shard
from sepnas.runtime.engines.torch_engine import Engine, calls_of_a_pass
from sepnas.runtime.tensors.codec import Array

BATCHES = (1, 3, 2, 1)
EXACT = 1e-5


class EngineContract:
    """Fixtures: ``kind`` is the engine, and ``device`` a device's folder of a deployment exported for ``kind`` and
    onnxruntime. Override ``tolerance`` for an engine that is not exact."""

    @pytest.fixture
    def kind(self) -> EngineKind:
        raise NotImplementedError("override the fixture `kind`")

    @pytest.fixture
    def device(self) -> Path:
        raise NotImplementedError("override the fixture `device`")

    @pytest.fixture
    def tolerance(self) -> float:
        """Largest allowed error of an answer, relative to its largest value."""
        return EXACT

    @pytest.fixture
    def shard(self, kind: EngineKind, device: Path) -> Shard:
        shard = load_shard(device)
        if kind.name not in usable_engines(shard):
            pytest.skip(f"{kind.name} is not installed: pip install 'sepnas[{kind.extra}]'")
        return shard

    @pytest.fixture
    def engine(self, kind: EngineKind, shard: Shard) -> Engine:
        return _made(kind, shard)

    def test_it_is_registered(self, kind: EngineKind) -> None:
        """Options, manifests and profiles find the engine by its name."""
        assert engines()[kind.name] is kind

    def test_answers_are_those_of_onnxruntime(self, engine: Engine, shard: Shard, tolerance: float) -> None:
        """Every segment gives onnxruntime's answers, also when the batch size changes between calls."""
        reference = _made(engines()["onnxruntime"], shard)
        for batch in BATCHES:
            for segment, inputs in _calls(shard, batch):
                wanted, found = _outputs(reference, segment, inputs), _outputs(engine, segment, inputs)
                _assert_near(found, wanted, tolerance)

    def test_a_sample_is_answered_alike_in_any_batch(self, engine: Engine, shard: Shard, tolerance: float) -> None:
        """The answer for a sample does not depend on the other samples of its batch."""
        for segment, inputs in _calls(shard, 3):
            together = _outputs(engine, segment, inputs)
            for index in range(3):
                alone = _outputs(engine, segment, [array[index : index + 1] for array in inputs])
                _assert_near(alone, [array[index : index + 1] for array in together], tolerance)

    def test_answers_stay_and_inputs_too(self, engine: Engine, shard: Shard) -> None:
        """A call changes neither its inputs nor the answers of earlier calls."""
        for segment, inputs in _calls(shard, 1):
            given = [array.copy() for array in inputs]
            first = _outputs(engine, segment, inputs)
            kept = [array.copy() for array in first]
            _outputs(engine, segment, [array + 1 for array in inputs])
            for before, after in ((given, inputs), (kept, first)):
                assert all(map(np.array_equal, before, after))

    def test_views_are_inputs_too(self, engine: Engine, shard: Shard) -> None:
        """A non-contiguous array gives the same answer as its copy."""
        for segment, inputs in _calls(shard, 2):
            views = [np.ascontiguousarray(array[::-1])[::-1] for array in inputs]
            _assert_near(_outputs(engine, segment, views), _outputs(engine, segment, inputs), EXACT)

    def test_each_thread_gets_the_same_answers(self, engine: Engine, shard: Shard) -> None:
        """Threads that prepare and call the engine concurrently get the same answers as the thread that made it."""
        calls = _calls(shard, 1)
        wanted = [_outputs(engine, *call) for call in calls]
        found: list[list[list[Array]]] = []

        def work() -> None:
            engine.prepare_thread()
            found.append([_outputs(engine, *call) for call in calls])

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == len(threads)
        for answers in found:
            for each, expected in zip(answers, wanted, strict=True):
                _assert_near(each, expected, EXACT)

    @pytest.mark.parametrize("damage", [b"", b"no graph", None], ids=["empty", "noise", "cut"])
    def test_a_damaged_graph_is_refused_by_name(
        self, damage: bytes | None, kind: EngineKind, shard: Shard, tmp_path: Path
    ) -> None:
        """A file without a complete graph raises a DeploymentError that names it, before any segment runs."""
        first = next(iter(shard.manifest.segments.values())).files[kind.graphs]
        for segment in shard.manifest.segments.values():
            for file in segment.files.values():
                (tmp_path / file).parent.mkdir(exist_ok=True)
                data = (shard.folder / file).read_bytes()
                whole = file != first
                (tmp_path / file).write_bytes(data if whole else data[: len(data) // 2] if damage is None else damage)
        with pytest.raises(DeploymentError, match=first):
            _made(kind, replace(shard, folder=tmp_path))

    def test_nothing_is_unpickled(self, kind: EngineKind, shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
        """An engine loads and answers without reading a pickle."""
        _made(kind, shard)  # imports late modules before pickle is patched

        def refuse(*_: Any, **__: Any) -> NoReturn:
            raise AssertionError("a pickle was read")

        for name in ("load", "loads", "Unpickler"):
            monkeypatch.setattr(pickle, name, refuse)
        engine = _made(kind, shard)
        for segment, inputs in _calls(shard, 1):
            _outputs(engine, segment, inputs)


def _made(kind: EngineKind, shard: Shard) -> Engine:
    engine: Engine = late(kind.runner)(shard, 1, kind)
    return engine


def _calls(shard: Shard, batch: int) -> list[tuple[str, list[Array]]]:
    """Each segment with different inputs, from 0 to 1, the range that a quantised engine was calibrated for."""
    random = np.random.default_rng(batch)
    return [
        (segment, [random.random((batch, *each.shape[1:]), dtype=np.float32) for each in inputs])
        for segment, inputs in calls_of_a_pass(shard)
    ]


def _outputs(engine: Engine, segment: str, inputs: Sequence[Array]) -> list[Array]:
    return list(engine.run(segment, inputs))


def _assert_near(found: Sequence[Array], wanted: Sequence[Array], tolerance: float) -> None:
    for made, expected in zip(found, wanted, strict=True):
        assert made.dtype == np.float32
        assert made.shape == expected.shape
        assert np.abs(made - expected).max() <= tolerance * max(1.0, np.abs(expected).max())
