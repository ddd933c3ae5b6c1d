"""Files with any damage: documents, manifests, weights and images are read, or refused by an error of ours."""

import io
import json
import re
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from sepnas.deployment.manifest import SHARD_NAME, WEIGHTS_NAME, ShardManifest
from sepnas.deployment.verify import file_entry, load_manifest, verify_device
from sepnas.errors import DataError, DeploymentError, SepnasError, SpecError
from sepnas.runtime.client.images import load_images
from sepnas.runtime.engines.shard import load_shard
from sepnas.separable.architecture import named_architecture
from sepnas.spec.cluster import uniform_cluster
from sepnas.spec.document import Document
from sepnas.spec.hosts import Hosts
from sepnas.spec.image_file import MAX_PIXELS

TOKENS = [
    *("null", "true", "-1", "1e999", ".nan", "9" * 30, "0x" + "f" * 5000, "2024-13-45", "1:99", "[]", "{}", "[["),
    *('"', "'", "&a [*a]", "*a", "<<: *a", "!!python/object:os.system x", "!!binary x", "!!set {a}", "? [a]", "---"),
    *("\\ud800", "\0", "\t", "\u2028"),
]
"""What a place in a file may not, or not everywhere, hold."""

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def damaged(draw: st.DrawFn, data: bytes, tokens: st.SearchStrategy[bytes]) -> bytes:
    """A file's bytes, a few pieces removed or replaced by a token, any bytes or a piece of its own; or its start."""
    for _ in range(draw(st.integers(1, 3))):
        start, own = (draw(st.integers(0, len(data))) for _ in range(2))
        end = start + draw(st.integers(0, 20))
        piece = draw(tokens | st.just(data[own : own + 30]) | st.binary(max_size=8))
        data = data[:start] + piece + data[end:]
    return data[: draw(st.just(len(data)) | st.integers(0, len(data)))]


texts = st.sampled_from([token.encode() for token in TOKENS])
numbers = st.sampled_from([b"\x00" * 4, b"\xff" * 4, b"\x7f" * 8, b"\x00\x01", b"\x80\x00\x00\x00"])

WRITTEN: dict[str, Document] = {
    "hosts.yaml": Hosts.on(["127.0.0.1:17300", "[::1]:17301"]),
    "hosts.json": Hosts.on(["127.0.0.1:17300", "[::1]:17301"]),
    "cluster.yaml": uniform_cluster(2),
    "architecture.json": named_architecture("resnext11_2x4d", 2, "hand-made"),
}


@pytest.mark.parametrize("name", WRITTEN)
@quick
@given(data=st.data())
def test_a_damaged_document_is_one_that_can_be_written_or_refused(name: str, data: st.DataObject, tmp_path: Path):
    """Whatever became of a file, it is a document that can be written again, or a SpecError that names the file."""
    path = tmp_path / name
    WRITTEN[name].save(path)
    path.write_bytes(data.draw(damaged(path.read_bytes(), texts)))
    try:
        document = type(WRITTEN[name]).load(path)
    except SpecError as error:
        says = str(error).encode()  # what cannot be printed tells nobody
        assert path.name.encode() in says
    else:
        document.save(path)
        assert type(document).load(path) == document


@pytest.fixture
def device(exported: Path, tmp_path: Path) -> Path:
    """A device's folder that a test may spoil."""
    return Path(shutil.copytree(exported / "device0", tmp_path / "device0"))


@quick
@given(data=st.data())
def test_a_damaged_manifest_is_refused(data: st.DataObject, exported: Path, device: Path):
    """No change to a manifest, of the deployment or of a device, goes unnoticed, and each is an error of ours."""
    for source, folder, read in (
        (exported / "manifest.json", device.parent, load_manifest),
        (exported / "device0" / SHARD_NAME, device, verify_device),
    ):
        spoilt = data.draw(damaged(source.read_bytes(), texts))
        (folder / source.name).write_bytes(spoilt)
        if spoilt != source.read_bytes():
            with pytest.raises((DeploymentError, SpecError)):
                read(folder)
        (folder / source.name).unlink()
        if folder == device:
            shutil.copy(source, folder)


def seal_weights(device: Path, weights: bytes) -> None:
    """Put these weights there, and let the manifest say so: a file that was damaged before it was exported."""
    (device / WEIGHTS_NAME).write_bytes(weights)
    manifest = ShardManifest.load(device / SHARD_NAME)
    files = {**manifest.files, WEIGHTS_NAME: file_entry(device / WEIGHTS_NAME)}
    (device / SHARD_NAME).write_text(manifest.model_copy(update={"files": files}).seal().dumps())


@quick
@given(data=st.data())
def test_damaged_weights_are_refused_or_read(data: st.DataObject, exported: Path, device: Path):
    """Weights with a right hash and any damage are read, or a DeploymentError that names the file."""
    whole = (exported / "device0" / WEIGHTS_NAME).read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")
    seal_weights(device, data.draw(damaged(whole[:head], texts | numbers)) + whole[head:])
    try:
        load_shard(device)
    except DeploymentError as error:
        assert WEIGHTS_NAME in str(error)  # noqa: PT017


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "X"])
def test_weights_of_another_format_are_refused(kind: str, device: Path):
    """Tensors in a format that numpy has not are a DeploymentError that names the file."""
    head = json.dumps({"a": {"dtype": kind, "shape": [2], "data_offsets": [0, 2]}}).encode()
    seal_weights(device, struct.pack("<Q", len(head)) + head + bytes(2))
    with pytest.raises(DeploymentError, match=re.escape(WEIGHTS_NAME) + ": not a safetensors file"):
        load_shard(device)


def test_weights_that_announce_more_than_is_there_are_refused(device: Path):
    """A header that announces itself, or a tensor, larger than the file is refused and not waited for."""
    large = save({"a": np.zeros(4, np.float32)}).replace(b"[4]", b"[9]")
    for weights in (struct.pack("<Q", 1 << 62) + b"{}", large, b""):
        seal_weights(device, weights)
        with pytest.raises(DeploymentError, match=re.escape(WEIGHTS_NAME) + ": not a safetensors file"):
            load_shard(device)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
@quick
@given(data=st.data())
def test_a_damaged_image_is_pixels_or_refused(kind: str, data: st.DataObject, exported: Path, tmp_path: Path):
    """Whatever became of an image file, it is an image of the right shape, or a DataError that names the file."""
    manifest, buffer = load_manifest(exported), io.BytesIO()
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(gray).save(buffer, kind)
    path = tmp_path / "image"
    path.write_bytes(data.draw(damaged(buffer.getvalue(), numbers)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow tells of what it can mend
        try:
            assert load_images([path], manifest, "stretch").shape == (1, 1, 8, 8)
        except DataError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017


@pytest.mark.parametrize("side", [int(MAX_PIXELS**0.5) + 1, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_by_its_size(side: int, exported: Path, tmp_path: Path):
    """A small file that says to hold a huge image is refused before its pixels are made."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(1 << 20))))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (*chunks, (b"IEND", b""))
    )
    (tmp_path / "bomb.png").write_bytes(png)
    with pytest.raises(DataError, match=r"bomb\.png: .* pixels; at most 67,108,864 are read"):
        load_images([tmp_path / "bomb.png"], load_manifest(exported), "stretch")


def test_what_would_start_a_program_is_no_image(exported: Path, tmp_path: Path):
    """Pillow hands EPS to a program to draw it; here it is not read."""
    Image.new("L", (8, 8)).save(tmp_path / "image.eps")
    with pytest.raises(SepnasError, match=r"image\.eps: is not an image .* expected one of BMP, GIF, JPEG, PNG"):
        load_images([tmp_path / "image.eps"], load_manifest(exported))
