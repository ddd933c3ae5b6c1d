"""Data folders as people have them: names of any kind, what is passed over, what may not be read, what has no room."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from sepnas.deployment.network_facts import ImageInput
from sepnas.errors import DataError, TrainingError
from sepnas.runtime.client.images import read_images
from sepnas.spec import memory
from sepnas.train.checks import check_class_names
from sepnas.train.data import load_dataset
from tests.limits import PROCESS_S
from tests.train.test_data import load_folder, make_folder
from tests.train.test_train import small_data


def test_what_is_passed_over_is_counted_and_said(tmp_path: Path) -> None:
    """Nested folders, loose and hidden images, files of other kinds, folders beside `train`: one warning has all."""
    root = make_folder(tmp_path / "data")
    (root / "train" / "cat" / "more" / "deep").mkdir(parents=True)
    (root / "validation").mkdir()
    (root / ".git").mkdir()
    image = root / "train" / "cat" / "0.png"
    for name in ("train/cat/more/a.png", "train/cat/more/deep/b.jpg", "train/loose.png", "test/dog/._0.png"):
        (root / name).write_bytes(image.read_bytes())
    for name in ("train/dog/photo.heic", "train/dog/other.HEIC", "test/cat/notes.txt", "train/.DS_Store"):
        (root / name).write_text("no image")
    with pytest.warns(UserWarning, match="passed over") as caught:
        assert len(load_folder(root).test) == 8
    said = str(caught[0].message)
    assert len(caught) == 1
    assert f"{root}: passed over 2 files in folders below a class (first: {root}/train/cat/more/a.png)" in said
    assert f"1 file beside the folders of the classes (first: {root}/train/loose.png)" in said
    assert f"1 file whose name begins with a dot (first: {root}/test/dog/._0.png)" in said
    assert "3 files that are not images by their suffix (.heic, .txt)" in said
    assert "1 folder beside `train` (validation; only train, val and test are read)" in said


def test_nothing_is_said_where_all_is_read(tmp_path: Path) -> None:
    """A folder of images only gives no warning."""
    root = make_folder(tmp_path / "data", ("train", "val", "test"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_folder(root)


@pytest.mark.parametrize("name", [" ", "\u3000", "a\x1b[31mb", "a\u2028b"])
def test_a_class_has_a_name_that_can_be_shown(name: str, tmp_path: Path) -> None:
    """Blanks only, control characters and line breaks are refused before training, of folders and of other data."""
    root = make_folder(tmp_path / "data")
    for part in ("train", "test"):
        (root / part / "cat").rename(root / part / name)
    with pytest.raises(DataError, match=re.escape(f"the folder {name!r} names a class ")):
        load_folder(root)
    with pytest.raises(TrainingError, match=re.escape(repr(name))):
        check_class_names(replace(small_data(), classes=("a", "b", name)))


def test_no_two_classes_have_one_name() -> None:
    """An export would refuse them."""
    with pytest.raises(TrainingError, match="names a class twice: 'b'"):
        check_class_names(replace(small_data(), classes=("a", "b", "b")))


def test_file_names_may_be_any_bytes(tmp_path: Path) -> None:
    """Images whose names are not UTF-8 are read, and shown escaped; a folder with such a path is refused at once."""
    root = make_folder(tmp_path / "data")
    odd = root / "train" / "cat" / os.fsdecode(b"caf\xe9.png")
    (root / "train" / "cat" / "0.png").rename(odd)
    assert len(load_folder(root).train) == 6
    odd.write_text("no image")
    with pytest.raises(DataError, match=r"train/cat/caf\\xe9\.png: is not an image"):
        load_folder(root)
    root.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    with pytest.raises(DataError, match=r"^folder:.*/caf\\xe9: is not UTF-8.*link"):
        load_folder(tmp_path / os.fsdecode(b"caf\xe9"))
    (tmp_path / "link").symlink_to(os.fsdecode(b"caf\xe9"))
    with pytest.raises(DataError, match=r"caf\\xe9/train/cat/caf\\xe9\.png: is not an image"):
        load_folder(tmp_path / "link")


def test_a_path_that_cannot_be_is_an_error_of_ours(tmp_path: Path) -> None:
    """A name that is too long for the system, and links in a circle, are told with the path."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for name in ("x" * 300, "a"):
        with pytest.raises(DataError, match=f"{tmp_path}/{name}: "):
            load_folder(tmp_path / name)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_may_not_be_read_is_named() -> None:
    """Another user is told which folder it may not read."""
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        root = make_folder(Path(base) / "data")
        (root / "train").chmod(0o700)
        code = (
            "import os; from pathlib import Path; from sepnas.errors import DataError; "
            "from sepnas.train.folder_listing import list_folder; os.setuid(65534)\n"
            f"try: list_folder(Path({str(root)!r}))\n"
            "except DataError as error: print(error)"
        )
        said = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=PROCESS_S, check=True
        )
    assert said.stdout == f"{root / 'train'}: cannot be read: Permission denied\n"


# -- memory


def test_images_without_room_are_refused_before_they_are_read(tmp_path: Path) -> None:
    """At 60,000 pixels a side digits, a folder (whose files are not even images) and infer say what they would need."""
    with pytest.raises(DataError, match=r"'digits': 1,797 images of 60,000x60,000 pixels .* 12,9\d\d\.\d GB"):
        load_dataset("digits", image_size=60_000)
    root = make_folder(tmp_path / "data")
    for path in root.rglob("*.png"):
        path.write_text("no image")
    with pytest.raises(DataError, match=r"16 images of 600,000x600,000 pixels .* GB are free; choose a smaller"):
        load_folder(root, image_size=600_000)
    large = ImageInput(channels=1, height=8192, width=8192, mean=(0.0,), std=(1.0,))
    with pytest.raises(DataError, match="20,000 images of 8,192x8,192 pixels"):
        read_images([tmp_path / "a.png", tmp_path / "b.png"] * 10_000, large)


def test_a_colour_folder_needs_three_times_as_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a folder of colour images needs is known from their heads: the pixels are not decoded then."""
    root = make_folder(tmp_path / "data", mode="RGB")
    monkeypatch.setattr(memory, "available_bytes", lambda: 16 * 8 * 8 * 3)
    (root / "test" / "cat" / "0.png").write_bytes((root / "test" / "cat" / "0.png").read_bytes()[:60])  # a head
    with pytest.raises(DataError, match="16 images of 8x8 pixels in 3 channels"):
        load_folder(root, image_size=8)


@pytest.mark.parametrize("names", [("memory.max", "memory.current"), memory._LIMITS[1]])
def test_a_container_may_have_less_memory(
    names: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of a container counts, less what is used there and cannot be given up."""
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    alone = memory.available_bytes()
    (tmp_path / names[0]).parent.mkdir(exist_ok=True)
    (tmp_path / names[0]).write_text("5000\n")
    (tmp_path / names[1]).write_text("3000\n")
    assert memory.available_bytes() == 2000
    (tmp_path / names[0]).with_name("memory.stat").write_text("inactive_file 700\nactive_file 100\nanon 9\n")
    assert memory.available_bytes() == 2800
    (tmp_path / names[0]).write_text("max\n")
    assert alone is None or memory.available_bytes() > 2800
