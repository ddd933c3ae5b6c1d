"""Every wire format keeps the contract, and one more is one more entry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sepnas.plan.wire import WIRE_FORMATS, WireEncoding, WireFormat
from sepnas.testing.wire_formats import WireFormatContract

ENTRY = '    WireEncoding.quantised("int2", bits=2, priced_as="int4"),\n'

PROGRAM = """
import importlib.util, json, pathlib, sys
spec = importlib.util.find_spec("sepnas.plan.wire")
source = pathlib.Path(spec.origin).read_text()
assert source.count(ENTRY) == 1
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
another = ENTRY.replace("int2", "int1").replace("bits=2", "bits=1")
exec(compile(source.replace(ENTRY, ENTRY + another), spec.origin, "exec"), module.__dict__)

import pytest
from typer.testing import CliRunner
from sepnas.cli.main import app

said = {}
for options in (["--wire", "fp32"], ["--wire", "int1", "--learned-scales"], ["--help"]):
    for verb in ("describe", "simulate"):
        arguments = [verb, *(["resnext20_2x4d", "-n", "2", "--json"] if options != ["--help"] else []), *options]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        said[verb, options[-1]] = result.output
for verb in ("describe", "simulate"):
    whole, bits = (json.loads(said[verb, option])["payload_bytes"] for option in ("fp32", "--learned-scales"))
    assert bits * 32 == whole
assert "int1" in said["describe", "--help"]
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", TEST, "-k", "int1 and TestEveryFormat"]))
"""


class TestEveryFormat(WireFormatContract):
    @pytest.fixture(params=WIRE_FORMATS)
    def wire(self, request: pytest.FixtureRequest) -> WireFormat:
        name: WireFormat = request.param
        return name


@pytest.mark.slow
def test_a_new_format_is_one_entry() -> None:
    """With one more line in the registry ``int1`` is an option, is in the help, is priced and keeps the contract."""
    program = f"ENTRY, TEST = {ENTRY!r}, {str(Path(__file__).resolve())!r}\n{PROGRAM}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed" in done.stdout


def test_levels_fill_bytes() -> None:
    """Three bits do not: the message names the number and what is allowed."""
    with pytest.raises(ValueError, match=r"`bits` \(=3\) do not fill a byte; allowed are 1, 2, 4 and 8"):
        WireEncoding.quantised("int3", bits=3)
