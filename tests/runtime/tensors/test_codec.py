"""Wire formats and merges: what the devices compute is what the whole network computes."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sepnas.errors import PlanError, RemoteProtocolError
from sepnas.nets.exchange import merge_tensors, through_wire
from sepnas.plan.merges import merge, merge_problem
from sepnas.plan.shapes import Region, Shape
from sepnas.plan.steps import Merge
from sepnas.plan.wire import PIXELS, WIRE_FORMATS, payload_bytes
from sepnas.runtime.tensors.codec import decode, decode_image, encode, encode_image, normalise
from sepnas.train.images import ImageData, Split

values = st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, -0.0, 1.0, 65520.0, -1e30, 1e30])
batches = hnp.arrays(np.float32, hnp.array_shapes(min_dims=4, max_dims=4, max_side=5), elements=values)


@given(batches, st.sampled_from(WIRE_FORMATS))
def test_a_message_is_worth_what_the_network_says(x_bchw, wire):
    """Encoding and decoding in numpy gives bit for bit what the network computes for the same wire."""
    shape = Shape.chw(*x_bchw.shape[1:])
    payload = encode(x_bchw, wire)
    assert len(payload) == payload_bytes(shape.num_values, wire, len(x_bchw))
    expected = through_wire(torch.from_numpy(x_bchw), wire).numpy()
    np.testing.assert_array_equal(decode(bytearray(payload), wire, shape), expected)


@given(batches, st.sampled_from(["int8", "int4"]), st.floats(2**-10, 2**10, width=32))
def test_a_message_of_a_learned_step_is_worth_what_the_network_says(x_bchw, wire, step):
    """With a step that both ends know nothing but levels is sent, and numpy and torch still agree bit for bit."""
    shape, log_step = Shape.chw(*x_bchw.shape[1:]), torch.tensor(step).log()
    scale = np.float32(log_step.exp())
    payload = encode(x_bchw, wire, scale)
    assert len(payload) == -(-shape.num_values // (1 if wire == "int8" else 2)) * len(x_bchw)
    expected = through_wire(torch.from_numpy(x_bchw), wire, log_step).numpy()
    np.testing.assert_array_equal(decode(bytearray(payload), wire, shape, scale), expected)


@pytest.mark.filterwarnings("error")
def test_what_is_not_a_number_has_level_0():
    """In a message of a learned step NaN arrives as 0, what is too large as the highest level, as in the network."""
    x_bchw = np.array([np.nan, np.inf, 3e38, 3.0, -np.inf], np.float32).reshape(1, 5, 1, 1)
    for scale, highest in ((0.5, 7.5), (3e38, np.inf)):
        step = np.float32(scale)
        found = decode(encode(x_bchw, "int4", step), "int4", Shape.vector(5), step)
        due = [0.0, highest, 7.5 if scale == 0.5 else step, 3.0 if scale == 0.5 else 0.0, 0.0]
        assert found.ravel().tolist() == [float(np.float32(value)) for value in due]
    expected = through_wire(torch.from_numpy(x_bchw), "int4", torch.tensor(0.5).log())
    found = decode(encode(x_bchw, "int4", np.float32(0.5)), "int4", Shape.chw(5, 1, 1), 0.5)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("wire", ["int8", "int4"])
def test_a_constant_sample_comes_back_exactly(wire):
    """A sample whose values are all equal has step 0 and survives quantisation."""
    x_bchw = np.full((2, 3, 1, 1), 0.7, np.float32)
    np.testing.assert_array_equal(decode(encode(x_bchw, wire), wire, Shape.chw(3, 1, 1)), x_bchw)


@pytest.mark.parametrize("wire", WIRE_FORMATS)
def test_a_sample_that_is_not_finite_harms_no_other(wire):
    """NaN in one sample of a batch leaves the other samples what they are alone."""
    x_bchw = np.arange(8, dtype=np.float32).reshape(2, 4, 1, 1)
    good = decode(encode(x_bchw[1:], wire), wire, Shape.vector(4))
    x_bchw[0, 0] = np.nan
    both = decode(encode(x_bchw, wire), wire, Shape.vector(4))
    assert np.isnan(both[0]).any()
    np.testing.assert_array_equal(both[1:], good)


def test_int4_puts_the_first_value_into_the_low_half():
    """The layout of int4 is the one that the specification of the wire describes."""
    payload = encode(np.array([0.0, 15.0, 1.0], np.float32).reshape(1, 3, 1, 1), "int4")
    assert bytes(payload) == np.array([0, 1], "<f4").tobytes() + bytes([0xF0, 0x01])


def test_a_region_is_encoded_from_a_view():
    """A prefix of the channels of a batch, which is not contiguous, is encoded like a copy of it."""
    x_bchw = np.random.default_rng(0).random((3, 4, 2, 2), np.float32)
    for wire in WIRE_FORMATS:
        assert bytes(encode(x_bchw[:, :2], wire)) == bytes(encode(x_bchw[:, :2].copy(), wire))


@given(st.binary(max_size=200), st.sampled_from(WIRE_FORMATS))
def test_any_bytes_decode_or_are_refused(payload, wire):
    """Any bytes are a batch or a RemoteProtocolError."""
    try:
        assert decode(payload, wire, Shape.chw(3, 2, 1)).shape[1:] == (3, 2, 1)
    except RemoteProtocolError:
        assert len(payload) == 0 or len(payload) % payload_bytes(6, wire)


@pytest.mark.filterwarnings("error")
@given(st.data(), st.sampled_from(WIRE_FORMATS), st.integers(1, 4), st.integers(1, 9))
def test_any_bytes_of_the_right_length_decode(data, wire, batch, channels):
    """Whatever numbers a peer's bytes are, finite or not, they are decoded without a word."""
    length = payload_bytes(channels, wire, batch)
    numbers = st.sampled_from([b"\xff", b"\x00", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", b"\x01\x00\x80\x00"])
    pattern = data.draw(numbers | st.binary(min_size=1, max_size=length))
    payload = (pattern * length)[:length]
    shape = Shape.chw(channels, 1, 1)
    x_bchw = decode(payload, wire, shape)
    assert (x_bchw.shape, x_bchw.dtype) == ((batch, channels, 1, 1), np.float32)
    if np.isfinite(x_bchw).all() and wire in ("fp32", "fp16"):
        np.testing.assert_array_equal(decode(encode(x_bchw, wire), wire, shape), x_bchw)


@pytest.mark.parametrize("wire", WIRE_FORMATS)
def test_decoding_takes_memory_for_its_numbers(wire):
    """Decoding takes memory for the numbers and what they are made of, and nothing that a payload could ask for."""
    payload = b"\xff" * payload_bytes(1 << 18, wire)
    tracemalloc.start()
    decode(payload, wire, Shape.vector(1 << 18))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 4 * (4 << 18)


images_and_numbers = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(0, 1000))


@given(images_and_numbers)
def test_images_are_normalised_as_in_training(sizes):
    """Decoded images are training's normalised ones, bit for bit, and take one byte a value on the wire."""
    batch, channels, side, seed = sizes
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (batch, channels, side, side), np.uint8)
    normalisation_2C = random.uniform(0.01, 1.0, (2, channels)).astype(np.float32)
    payload, shape = encode_image(images), Shape.chw(channels, side, side)
    assert len(payload) == payload_bytes(shape.num_values, PIXELS, batch) == images.size
    mean, std = normalisation_2C.astype(float).tolist()
    none = Split(torch.empty(0), torch.empty(0))
    wanted = ImageData("", (), none, none, none, tuple(mean), tuple(std)).normalise(torch.from_numpy(images))
    np.testing.assert_array_equal(decode_image(payload, shape, normalisation_2C), wanted.numpy())


def test_a_region_of_an_image_is_sent_and_normalised_alone():
    """Rows of some channels, cut from an image before it is sent, are those of the normalised image."""
    random = np.random.default_rng(0)
    images, normalisation_2C = random.integers(0, 256, (2, 3, 6, 5), np.uint8), np.float32([[0.1, 0.2, 0.3], [1, 2, 3]])
    region = Region(((1, 3), (2, 5), (0, 5)))
    payload = encode_image(images[region.slices])
    assert len(payload) == 2 * region.num_values
    found = decode_image(payload, Shape.chw(2, 3, 5), normalisation_2C[:, 1:])
    np.testing.assert_array_equal(found, normalise(images, normalisation_2C)[region.slices])


@given(st.binary(max_size=100))
def test_any_bytes_are_images_or_refused(payload):
    """Any bytes are a batch of images, or a RemoteProtocolError."""
    try:
        found = decode_image(payload, Shape.chw(3, 2, 2), np.ones((2, 3), np.float32))
    except RemoteProtocolError:
        assert len(payload) == 0 or len(payload) % 12
    else:
        assert (found.shape, found.dtype) == ((len(payload) // 12, 3, 2, 2), np.float32)


@settings(max_examples=50)
@given(st.data())
def test_merges_are_those_of_the_network(data):
    """Mean and weighted merges of messages with fewer channels give bit for bit what the network computes."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    own = rng.standard_normal((2, 5, 3, 2), np.float32)
    prefixes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    received = [rng.standard_normal((2, channels, 3, 2), np.float32) for channels in prefixes]
    weights = rng.random(len(received), np.float32)
    before = own.copy()
    tensors = [torch.from_numpy(array) for array in (own, *received)]
    names, shape = tuple("abcdefgh"[: 1 + len(received)]), Shape.chw(*own.shape[1:])
    for step, numbers in ((Merge("mean", names, "out"), None), (Merge("weighted", names, "out", "merge0"), weights)):
        expected = merge_tensors(step, shape, tensors, [] if numbers is None else list(torch.from_numpy(numbers)))
        np.testing.assert_array_equal(merge(step, shape, [own, *received], numbers), expected.numpy())
    np.testing.assert_array_equal(own, before)


def test_the_merges_of_exact_splits():
    """Sum adds, concat joins along any axis, assemble puts pieces where they belong."""
    shape = Shape.chw(2, 3, 4)
    one, two = np.ones((1, *shape.dims), np.float32), np.full((1, *shape.dims), 2, np.float32)
    assert merge(Merge("sum", ("a", "b"), "c"), shape, [one, two]).max() == 3
    assert merge(Merge("concat", ("a", "b"), "c"), Shape.chw(4, 3, 4), [one, two]).shape == (1, 4, 3, 4)
    assert merge(Merge("concat", ("a", "b"), "c", axis="H"), Shape.chw(2, 6, 4), [one, two]).shape == (1, 2, 6, 4)
    whole = np.arange(48, dtype=np.float32).reshape(1, 2, 6, 4)
    regions = [Region(((0, 2), (0, 2), (0, 4))), Region(((0, 2), (2, 6), (0, 1))), Region(((0, 2), (2, 6), (1, 4)))]
    offsets = tuple(tuple(start for start, _ in region.ranges) for region in regions)
    step = Merge("assemble", ("a", "b", "c"), "d", offsets=offsets)
    pieces = [whole[region.slices] for region in regions]
    np.testing.assert_array_equal(merge(step, Shape.chw(2, 6, 4), pieces), whole)
    tensors = [torch.from_numpy(piece.copy()) for piece in pieces]
    np.testing.assert_array_equal(merge_tensors(step, Shape.chw(2, 6, 4), tensors).numpy(), whole)


@pytest.mark.parametrize(
    ("offsets", "problem"),
    [
        (((0, 0), (0, 2)), "at W 2..4 of 'c', which has 3"),
        (((0, 0), (0, 0)), "overlap at"),
        (((0, 0),), "must place each of 2 inputs"),
        (((0, 0), (0,)), "on 2 axes"),
    ],
)
def test_pieces_that_do_not_make_a_whole_are_refused(offsets, problem):
    """Pieces that overlap, leave a gap or lie outside are named."""
    step, whole = Merge("assemble", ("a", "b"), "c", offsets=offsets), Shape((2, 3), "HW")
    assert problem in merge_problem(step, whole, [Shape((2, 1), "HW"), Shape((2, 2), "HW")])
    gap = merge_problem(replace(step, offsets=((0, 0), (0, 2))), whole, [Shape((2, 1), "HW")] * 2)
    assert "without a value" in gap


def test_a_weighted_merge_without_its_weights_is_refused():
    """A weighted merge names the tensor that it misses."""
    array, weights = np.ones((1, 1, 1, 1), np.float32), np.ones(2, np.float32)
    with pytest.raises(PlanError, match="1 weights named 'merge3'"):
        merge(Merge("weighted", ("a", "b"), "c", "merge3"), Shape.chw(1, 1, 1), [array, array], weights)


def test_a_payload_at_any_address_becomes_an_aligned_array():
    """Engines read floats where floats may lie, wherever the bytes came to lie."""
    values = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    for start in range(5):
        memory = bytearray(start) + encode(values, "fp32")
        found = decode(memoryview(memory)[start:], "fp32", Shape.chw(2, 3, 4))
        assert found.flags.aligned
        assert (found == values).all()
