"""Files that are written: through links, into devices and pipes, whole or not at all; and a stdout that is full."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sepnas.cli.options import path_of
from sepnas.errors import StorageError
from sepnas.spec.document import write_bytes, write_text

DEVICES = {"null": (1, 3), "full": (1, 7)}


@pytest.fixture
def device(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A device node of the test's own: should it be replaced, the machine's is whole."""
    path = tmp_path / "device"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(*DEVICES[request.param]))
        path.write_bytes(b"")
    except OSError as error:
        pytest.skip(f"no device nodes here: {error}")
    return path


@pytest.mark.parametrize("device", ["null"], indirect=True)
def test_a_device_stays_a_device(device: Path):
    """What is written onto a device goes into it, and a link to one is no other case."""
    link = device.with_name("link")
    link.symlink_to(device.name)
    for path in (device, link):
        write_text(path, "x")
        write_bytes(path, b"x")
    assert stat.S_ISCHR(device.stat().st_mode)
    assert link.is_symlink()
    assert sorted(device.parent.iterdir()) == [device, link]


@pytest.mark.parametrize("device", ["full"], indirect=True)
def test_a_device_that_is_full_is_an_error(device: Path):
    """A device that takes nothing is a StorageError that names it."""
    with pytest.raises(StorageError, match=r"device: cannot be written: No space left on device"):
        write_text(device, "x")


def test_a_pipe_gets_what_is_written(tmp_path: Path):
    """A FIFO, as `>(...)` of a shell is one, is written into."""
    path, got = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_text()))
    reader.start()
    write_text(path, "text" * 1000)
    reader.join(60)
    assert got == ["text" * 1000]
    assert path.is_fifo()


def test_links_are_followed(tmp_path: Path):
    """What a link leads to is written, though it was not there before; the link stays."""
    (tmp_path / "there").mkdir()
    for name in ("old", "new"):
        (tmp_path / name).symlink_to(Path("there", name))
    (tmp_path / "there/old").write_text("before")
    for name in ("old", "new"):
        write_text(tmp_path / name, name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "there" / name).read_text() == name
    (tmp_path / "ring").symlink_to("ring")
    with pytest.raises(StorageError, match="ring: cannot be written"):
        write_text(tmp_path / "ring", "x")


def test_a_name_may_be_as_long_as_names_are(tmp_path: Path):
    """255 letters are written, 300 are an error of ours."""
    assert write_text(tmp_path / ("x" * 255), "x").read_text() == "x"
    with pytest.raises(StorageError, match="cannot be written: File name too long"):
        write_text(tmp_path / ("x" * 300), "x")
    assert len(list(tmp_path.iterdir())) == 1


def test_the_home_folder_is_meant_by_its_sign(monkeypatch: pytest.MonkeyPatch):
    """`--out=~/x` is a path below the home folder; of a user that there is not it is a name."""
    monkeypatch.setenv("HOME", "/somewhere")
    assert path_of("~/x") == Path("/somewhere/x")
    assert path_of("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")


COMMAND = [sys.executable, "-m", "sepnas", "describe", "resnext11_2x4d", "--devices", "2", "--policy", "none"]


def test_a_full_stdout_is_one_line_on_stderr():
    """`> /dev/full` ends with 1 and one message, however much is printed."""
    for more in ([], ["--help"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run([*COMMAND, *more], stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith("error: stdout cannot be written: No space left on device")
        assert done.stderr.count("\n") == 1


def test_a_file_may_be_stdout(tmp_path: Path):
    """`--save /dev/stdout` is what a pipe gets, and stdout may be closed."""
    command = [*COMMAND, "--save", "/dev/stdout"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert '"format": "sepnas.architecture"' in done.stdout
    with (tmp_path / "out").open("w") as file:
        subprocess.run(command, stdout=file, check=True)
    assert '"format": "sepnas.architecture"' in (tmp_path / "out").read_text()
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
