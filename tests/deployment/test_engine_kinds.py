"""The registered engines: options, manifests and lists come from one object for each."""

import json
import subprocess
import sys

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from sepnas.cli.main import app
from sepnas.deployment.engines.kind import late
from sepnas.deployment.engines.registry import AUTO, engine_names, engines, exact_engines, graph_engines
from sepnas.deployment.manifest import SegmentFiles

HEAVY = {"torch", "onnx", "onnxruntime", "ai_edge_litert", "numpy"}
LIST = """
import json, sys
from sepnas.deployment.engines.registry import engines
engines()
print(json.dumps([*sys.modules]))
"""


def test_facts_are_read_without_any_engine():
    """Reading the facts of all engines imports none of them, nor torch, nor numpy."""
    done = subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, check=True)
    assert not HEAVY & set(json.loads(done.stdout))


@pytest.mark.parametrize("name", engine_names())
def test_what_an_engine_names_exists(name):
    """Each function that is imported late is there, and so is the engine whose files or graphs another takes."""
    kind = engines()[name]
    for place in filter(None, (kind.runner, kind.export, kind.open_graph, kind.with_sizes)):
        assert callable(late(place))
    assert kind.graphs in graph_engines()
    assert bool(kind.suffix) == bool(kind.export) == (not kind.reads)
    assert not kind.quantised_from or kind.quantised_from in exact_engines()


def test_suffixes_tell_files_apart():
    """No two engines write files of one suffix."""
    suffixes = [engines()[name].suffix for name in graph_engines()]
    assert len(set(suffixes)) == len(suffixes)


def test_a_manifest_refuses_unknown_engines_with_the_list():
    """A segment with a file for another engine is refused, and all known ones are named."""
    with pytest.raises(ValidationError) as found:
        SegmentFiles(files={"tvm": "a.so"}, layers=(), weights=())
    assert all(name in str(found.value) for name in graph_engines())


@pytest.mark.parametrize(
    ("verb", "allowed"), [(["worker"], (*engine_names(), AUTO)), (["profile", "device"], exact_engines())]
)
def test_options_offer_the_registered_engines(verb, allowed):
    """`--engine` refuses an unknown name and says which ones there are."""
    done = CliRunner().invoke(app, [*verb, "--engine", "tvm"], env={"COLUMNS": "400"})
    assert done.exit_code == 2
    assert all(f"'{name}'" in done.output for name in allowed)
