"""Tensors in numpy's files: what is read is what was saved, and nothing else is read."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sepnas.errors import DataError
from sepnas.spec.tensor_file import MAX_ARRAYS, parse_tensors, read_tensor_file, tensor_bytes, write_tensor_file

TYPES = st.sampled_from(["<f4", ">f4", "<f8", "<f2", "|u1", "<i8", ">i2"])


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def with_header(text: bytes, values: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    form = "<H" if version == 1 else "<I"
    return (
        b"\x93NUMPY" + bytes((version, 0)) + struct.pack(form, len(text) if length is None else length) + text + values
    )


def archive(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as found:
        for name, content in members.items():
            found.writestr(name, content)
    return file.getvalue()


@given(
    TYPES.flatmap(lambda kind: arrays(kind, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))),
    st.booleans(),
)
def test_what_was_saved_is_read(array: np.ndarray, fortran: bool) -> None:
    """Any floats and integers, in either order of axes and bytes, come back in this machine's order."""
    array = np.asfortranarray(array) if fortran else array
    found = parse_tensors(npy(array), "it")
    assert isinstance(found, np.ndarray)
    assert (found.shape, found.dtype) == (array.shape, array.dtype.newbyteorder("="))
    np.testing.assert_array_equal(found, array)


def test_a_file_of_several_tensors_round_trips(tmp_path: Path) -> None:
    """What is written by name is read by name, by numpy too."""
    tensors = {"maps": np.arange(12, dtype=np.float32).reshape(3, 4), "one": np.float32(2.5).reshape(())}
    write_tensor_file(tmp_path / "x.npz", tensors)
    found = read_tensor_file(tmp_path / "x.npz")
    assert isinstance(found, dict)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as theirs:
        for name, array in tensors.items():
            np.testing.assert_array_equal(found[name], array)
            np.testing.assert_array_equal(theirs[name], array)


GOOD = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"
BAD: dict[str, bytes] = {
    "is neither a .npy nor a .npz": b"hello",
    "is no .npy file of a version": b"\x93NUMPY\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    "announces a header of 4,294,967,295 bytes": with_header(b"{}    ", version=2, length=2**32 - 1),
    "announces a header of 60,000 bytes": with_header(b" " * 60_000),
    "its header is not that": with_header(b"__import__('os').system('x')"),
    "header is not that of": with_header(b"(" * 2000),
    "holds Python objects or records": npy(np.array([{}], object), allow_pickle=True),
    "objects or records, which": npy(np.zeros(1, [("a", "<f4")])),
    "values of type .*U": npy(np.array(["text"])),
    "values of type .*M8": npy(np.zeros(1, "M8[s]")),
    "values of type .*c": npy(np.zeros(1, "c8")),
    "its header says the shape": with_header(GOOD % b"-1,", b""),
    "says the shape .*True": with_header(GOOD % b"True,", b"1234"),
    "announces a header of 3,9": with_header(GOOD % (b"0x" + b"f" * 3900 + b",")),  # too long to be printed
    "says the shape .*0, 4611": with_header(GOOD % b"0, 4611686018427387904"),
    "says the shape .*0, 1099": with_header(GOOD % b"0, 1099511627776, 1099511627776"),
    "values of type .*,.f4": with_header((GOOD % b"1,").replace(b"<f4", b"(,)f4"), b"1234"),
    "values of type 'f4,,'": with_header((GOOD % b"1,").replace(b"<f4", b"f4,,"), b"1234"),
    "values of type 'f7'": with_header((GOOD % b"1,").replace(b"<f4", b"f7"), b"1234567"),
    "is damaged, or no .npz file": b"PK\x03\x04" + b"x" * 40,
    "each entry must be a .npy file": archive({"readme.txt": b"x"}),
    "it: 'a': is no .npy file": archive({"a.npy": b"x"}),
    f"holds {MAX_ARRAYS + 1} tensors": archive({f"{i}.npy": b"x" for i in range(MAX_ARRAYS + 1)}),
    "its tensors have more than 1,000,000 bytes": archive({"a.npy": bytes(2_000_000)}),
}
BAD["announces float32 .1073741824,., 4,294,967,296 bytes, but 4 follow"] = with_header(GOOD % b"1073741824,", b"1234")


@pytest.mark.parametrize("says", BAD)
def test_a_file_that_is_none_is_refused(says: str) -> None:
    """Pickles, records, texts, announced sizes that are not there, and bombs are each named; nothing is allocated."""
    with pytest.raises(DataError, match=f"^it: .*{says.removeprefix('it: ')}"):
        parse_tensors(BAD[says], "it", max_bytes=1_000_000)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A missing file, a pipe and a file that is too large are DataErrors with their path."""
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "large.npy").write_bytes(npy(np.zeros(1000)))
    told = {"none.npy": "no such file", "pipe.npy": "cannot be read", "large.npy": "larger than 1,000"}
    for name, says in told.items():
        with pytest.raises(DataError, match=rf"{name}: .*{says}"):
            read_tensor_file(tmp_path / name, max_bytes=1000)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(tail: bytes) -> None:
    """Whatever follows a magic string is tensors or a DataError."""
    for head in (b"\x93NUMPY\x01\x00", b"PK\x03\x04", tensor_bytes({"a": np.zeros(2)})[:-10]):
        with contextlib.suppress(DataError):
            parse_tensors(head + tail, "it", 10_000)
