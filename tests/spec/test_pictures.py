"""Pictures as people have them: turned, transparent, of many modes; training, infer and serve read them alike."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sepnas.deployment.network_facts import InputFacts
from sepnas.deployment.verify import load_manifest
from sepnas.errors import DataError, RemoteError
from sepnas.nets.separable import SeparableNetwork
from sepnas.plan.data import ShapeData
from sepnas.runtime.client.images import load_images, read_image
from sepnas.runtime.client.session import Session
from sepnas.spec.image_file import FORMATS
from sepnas.spec.image_file import read_image as read_file
from sepnas.train.data import load_dataset
from sepnas.train.evaluate import chosen_classes
from sepnas.train.folder import read_folder
from tests.helpers_runtime import export_tiny, threads

SIDE = 64
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip
"""What is stored with each EXIF orientation, of an upright image."""


def seven(mode: str, ink: object, paper: object) -> Image.Image:
    """A drawn 7, which no turn maps to itself."""
    image = Image.new(mode, (SIDE, SIDE), paper)  # type: ignore[arg-type]
    ImageDraw.Draw(image).line([(16, 14), (48, 14), (28, 52)], fill=ink, width=7)  # type: ignore[arg-type]
    return image


UPRIGHT = np.asarray(seven("L", 255, 0))


def palette(transparent: int | bytes, **options: object) -> bytes:
    """A palette image of a white 7 (colour 1) on black (colour 0)."""
    image = seven("P", 1, 0)
    image.putpalette([0, 0, 0, 255, 255, 255])
    return encoded(image, transparency=transparent, **options)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exact = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    return encoded(Image.fromarray(UPRIGHT).convert("RGB").transpose(TURNS[orientation]), kind, exif=exif, **exact)


def gray(data: bytes) -> np.ndarray:
    return read_file(io.BytesIO(data), "it", 1, (SIDE, SIDE))[0]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", TURNS)
def test_a_picture_is_read_upright(orientation: int, kind: str) -> None:
    """Whatever EXIF orientation a file has, its pixels are those of the picture as it is meant to be seen."""
    found = gray(turned(orientation, kind)).astype(int)
    assert np.abs(found - UPRIGHT).max() <= (60 if kind == "JPEG" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_what_is_no_orientation_turns_nothing() -> None:
    """An orientation that does not exist, and EXIF data that are damaged, leave the picture as it is stored."""
    exif = Image.Exif()
    exif[0x0112] = 9
    for data in (exif.tobytes(), b"Exif\0\0MM\0*\0\0\0\x08\0\xff damaged"):
        assert np.array_equal(gray(encoded(Image.fromarray(UPRIGHT), exif=data)), UPRIGHT)


VISIBLE = {
    "LA, white ink": (encoded(seven("LA", (255, 255), (0, 0))), UPRIGHT),
    "LA, black ink": (encoded(seven("LA", (0, 255), (0, 0))), 255 - UPRIGHT),
    "LA, black ink on unseen white": (encoded(seven("LA", (0, 255), (255, 0))), 255 - UPRIGHT),
    "RGBA, black ink": (encoded(seven("RGBA", (0, 0, 0, 255), (0, 0, 0, 0))), 255 - UPRIGHT),
    "RGBA, white ink": (encoded(seven("RGBA", (255,) * 4, (255, 255, 255, 0))), UPRIGHT),
    "RGBA, WebP": (encoded(seven("RGBA", (255,) * 4, (255, 255, 255, 0)), "WEBP", lossless=True), UPRIGHT),
    "RGBA, nothing transparent": (encoded(seven("RGBA", (255,) * 4, (0, 0, 0, 255))), UPRIGHT),
    "RGBA, TIFF": (encoded(seven("RGBA", (0, 0, 0, 255), (0, 0, 0, 0)), "TIFF"), 255 - UPRIGHT),
    "palette, transparent paper": (palette(0), UPRIGHT),
    "palette, transparent ink": (palette(1), 255 - 255 * (UPRIGHT == 0)),
    "palette, alpha of each colour": (palette(b"\0\xff"), UPRIGHT),
    "palette, nothing transparent": (palette(b"\xff\xff"), UPRIGHT),
    "GIF, transparent paper": (encoded(seven("L", 255, 0), "GIF", transparency=0), UPRIGHT),
    "gray, one value transparent": (encoded(seven("L", 255, 0), transparency=0), UPRIGHT),
    "RGB, one colour transparent": (encoded(seven("RGB", (0, 0, 0), (9, 9, 9)), transparency=(9, 9, 9)), 255 - UPRIGHT),
    "1-bit": (encoded(seven("1", 1, 0)), UPRIGHT),
    "1-bit, one value transparent": (encoded(seven("1", 1, 0), transparency=0), UPRIGHT),
    "CMYK": (encoded(seven("CMYK", (0, 0, 0, 0), (0, 0, 0, 255)), "TIFF"), UPRIGHT),
}
"""File, and what of it must be seen."""


@pytest.mark.parametrize("name", VISIBLE)
def test_what_is_drawn_is_seen(name: str) -> None:
    """No drawing becomes a blank: transparent paper is white, or black where the ink is white; gray and RGB agree."""
    data, expected = VISIBLE[name]
    assert np.array_equal(gray(data), expected)
    assert all(np.array_equal(plane, expected) for plane in read_file(io.BytesIO(data), "it", 3, (SIDE, SIDE)))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_read(kind: str) -> None:
    """An animation is its first frame, whatever follows."""
    frames = [Image.new("L", (SIDE, SIDE), 255 * (index % 2)) for index in range(3)]
    exact = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(seven("L", 255, 0), kind, save_all=True, append_images=frames, **exact)
    assert np.array_equal(gray(data), UPRIGHT)


def test_training_infer_and_serve_see_the_same_pixels(deployed: Path, tmp_path: Path) -> None:
    """One folder of turned and transparent files: the training split holds what infer and serve read of each file."""
    files = [
        turned(6, "PNG"),
        turned(5, "JPEG"),
        VISIBLE["LA, white ink"][0],
        VISIBLE["palette, alpha of each colour"][0],
    ]
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            for index, data in enumerate(files):
                (tmp_path / part / label / f"{index}.png").write_bytes(data)
    _, splits = read_folder(tmp_path, 8, tmp_path / "cache")
    manifest = load_manifest(deployed)
    wanted = manifest.image.model_copy(update={"channels": 3, "mean": (0.0,) * 3, "std": (1.0,) * 3})
    paths = [tmp_path / "test" / "cat" / f"{index}.png" for index in range(len(files))]
    shape = ShapeData(axes="CHW", dims=wanted.dims)
    facts = manifest.network.model_copy(update={"inputs": {"x": InputFacts(shape=shape, image=wanted)}})
    inferred = load_images(paths, manifest.model_copy(update={"network": facts}), "stretch")
    served = [read_image(io.BytesIO(data), "it", wanted, "stretch", FORMATS) for data in files]
    assert np.array_equal(splits["test"].images[: len(files)].numpy(), inferred)
    assert np.array_equal(inferred, np.stack(served))


def test_images_of_any_proportions_are_cut_and_scaled() -> None:
    """`crop` scales the largest part in the middle that has the network's proportions; `stretch` scales all of it."""
    columns = np.repeat(np.arange(40, dtype=np.uint8)[None], 20, axis=0)  # 40 wide, 20 high: each value is its column
    data = encoded(Image.fromarray(columns))

    def read(size: tuple[int, int], resize: str) -> np.ndarray:
        return read_file(io.BytesIO(data), "it", 1, size, resize)[0].astype(int)

    assert np.array_equal(read((20, 40), "no"), columns)
    assert np.array_equal(read((20, 10), "crop"), columns[:, 15:25])
    assert np.array_equal(read((10, 40), "crop"), columns[5:15])
    assert read((10, 20), "stretch").shape == (10, 20)
    assert np.array_equal(read((10, 20), "stretch"), read((10, 20), "crop"))
    with pytest.raises(DataError, match=r"is 40x20 pixels, .* the largest part with these proportions"):
        read((10, 20), "no")


def test_a_pipe_is_no_image(deployed: Path, tmp_path: Path) -> None:
    """What is no regular file is refused, and not waited for."""
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("pipe.png", "."):
        with pytest.raises(DataError, match="is not a regular file"):
            load_images([tmp_path / name], load_manifest(deployed))


# -- numbers that are none


@pytest.fixture(scope="module")
def deployed(network: SeparableNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests' network as a deployment for torch."""
    folder = tmp_path_factory.mktemp("deployed") / "deployment"
    export_tiny(network, folder)
    return folder


@pytest.fixture(scope="module")
def session(deployed: Path) -> Iterator[Session]:
    """With real devices."""
    with threads(deployed) as hosts, Session(deployed, hosts) as session:
        yield session


def test_an_answer_that_is_no_number_is_an_error(session: Session) -> None:
    """Numbers that overflow on the devices name no class: infer and classify raise, and the session goes on."""
    batch = np.full((1, 1, 8, 8), 3e38, np.float32)
    for ask in (session.infer, session.classify):
        with pytest.raises(RemoteError, match="not finite"):
            ask(batch)
        assert session.classify(np.zeros((1, 1, 8, 8), np.uint8))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_of_no_numbers_is_refused(value: float, session: Session) -> None:
    """NaN and infinity in a float image are refused before anything is sent, with their place."""
    batch = np.zeros((2, 1, 8, 8), np.float32)
    batch[1, 0, 3, 4] = value
    with pytest.raises(DataError, match=r"image 1 of the batch has -?(nan|inf) at \(0, 3, 4\)"):
        session.infer(batch)


def test_a_logit_that_is_no_number_is_never_right() -> None:
    """An accuracy counts an answer with NaN or infinity as wrong, also where its label is class 0."""
    logits = torch.tensor([[1.0, 0.0], [float("nan"), 0.0], [float("inf"), 0.0], [0.0, 1.0]])
    assert chosen_classes(logits).tolist() == [0, -1, -1, 1]


def test_the_cache_of_an_earlier_reader_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels that an earlier way of reading made of the same files are made anew."""
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / "data" / part / label).mkdir(parents=True)
            for index in range(2):
                (tmp_path / "data" / part / label / f"{index}.png").write_bytes(turned(6, "PNG"))
    monkeypatch.setattr("sepnas.train.folder_cache.READER", "1")
    monkeypatch.setattr("sepnas.train.folder.read_image", lambda *_: np.zeros((3, 8, 8), np.uint8))
    load_dataset(f"folder:{tmp_path / 'data'}", root=tmp_path, image_size=8)
    monkeypatch.undo()
    assert load_dataset(f"folder:{tmp_path / 'data'}", root=tmp_path, image_size=8).test.images.any()
