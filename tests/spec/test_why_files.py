"""What keeps a file from being read, in words."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from sepnas.errors import UnreadableError
from sepnas.spec.files import FileTooLargeError, is_there, kind_of, name_of, open_regular, read_regular, why

DENIED = PermissionError(errno.EACCES, "Permission denied")


def test_who_owns_a_forbidden_file_is_told(tmp_path: Path) -> None:
    """Mode and owner of the file stand beside the user who may not use it."""
    path = tmp_path / "key.pem"
    path.touch(mode=0o600)
    user = os.geteuid()
    assert why(DENIED, path) == f"Permission denied: {path} (mode 0600, of uid {user}) may not be used so by uid {user}"


def test_the_folder_of_a_file_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """Where there is no file yet its folder is what forbids."""
    tmp_path.chmod(0o700)
    assert f"{tmp_path} (mode 0700, of uid {os.geteuid()}) may not be used so" in why(DENIED, tmp_path / "new")


def test_the_first_closed_folder_on_the_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that may not be entered is named, and not what lies in it."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "inner").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: closed not in (Path(path), *Path(path).parents))
    assert f"{closed} (mode 0700, of uid {os.geteuid()}) may not be entered" in why(DENIED, closed / "inner" / "file")


@pytest.mark.parametrize(
    ("error", "said"),
    [(OSError(errno.ENOSPC, "No space left on device"), "No space left on device"), (OSError("odd"), "odd")],
)
def test_other_errors_keep_their_words(error: OSError, said: str, tmp_path: Path) -> None:
    """What has nothing to do with permissions is told as the system tells it."""
    assert why(error, tmp_path) == said


def test_what_cannot_be_looked_at_is_unreadable(tmp_path: Path) -> None:
    """A name that the system refuses to look up is an error of ours, with the name; an absent file is not."""
    assert not is_there(tmp_path / "absent")
    assert is_there(tmp_path)
    with pytest.raises(UnreadableError, match=r"xxx: cannot be read: File name too long"):
        is_there(tmp_path / ("x" * 5000))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (stat.S_IFDIR, "a folder"),
        (stat.S_IFIFO, "a FIFO"),
        (stat.S_IFSOCK, "a socket"),
        (stat.S_IFREG, "a regular file"),
    ],
)
def test_kinds_have_names(kind: int, said: str) -> None:
    """Every kind of file has a word."""
    assert kind_of(kind | 0o644) == said


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A FIFO that nobody writes to is refused at once, and so is a folder."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a FIFO, not a file"):
        open_regular(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a folder, not a file"):
        open_regular(tmp_path)


def test_no_more_is_read_than_is_allowed(tmp_path: Path) -> None:
    """A file of exactly the bound is read, one byte more is refused with both numbers."""
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    assert len(read_regular(path, 1000)) == len(read_regular(path, 1 << 60)) == 1000  # nothing is allocated ahead
    with pytest.raises(FileTooLargeError, match="has 1,000 bytes; at most 999 are read"):
        read_regular(path, 999)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux' /proc")
def test_an_open_file_is_found_again_though_another_took_its_name(tmp_path: Path) -> None:
    """The name of an open file leads to that file, whatever stands at its path now."""
    path = tmp_path / "file"
    path.write_text("old")
    with open_regular(path) as file:
        path.unlink()
        path.write_text("new")
        assert Path(name_of(file, path)).read_text() == "old"
