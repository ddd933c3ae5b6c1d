"""The contract of a wire format: the numpy codec, training and the cost estimates agree on it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from sepnas.errors import RemoteProtocolError
from sepnas.plan.shapes import Shape
from sepnas.plan.wire import ENCODINGS, LEVELS, WireFormat, payload_bytes
from sepnas.runtime.tensors.codec import Array, decode, encode
from sepnas.separable.policy import Transfer
from sepnas.spec.device_profile import ConversionCosts, ExchangeCosts

_STEP = np.float32(0.375)
_ROUNDING = np.float32(1 + 1e-5)


class WireFormatContract:
    """Fixture: ``wire`` is the format's name."""

    @pytest.fixture
    def wire(self) -> WireFormat:
        raise NotImplementedError("override the fixture `wire`")

    def test_a_payload_is_as_long_as_predicted(self, wire: WireFormat) -> None:
        """A payload has its predicted length, for any batch, number of values and scale of the format."""
        for x_BCHW in _batches():
            for scale in _scales(wire):
                num_values = x_BCHW[0].size
                predicted = payload_bytes(num_values, wire, len(x_BCHW), scale is not None)
                assert len(encode(x_BCHW, wire, scale)) == predicted
                levels_bytes = -(-num_values * ENCODINGS[wire].bits // 8) * len(x_BCHW)
                header_bytes = ENCODINGS[wire].header_bytes * len(x_BCHW) if scale is None else 0
                assert predicted == levels_bytes + header_bytes

    def test_a_value_comes_back_within_half_a_step(self, wire: WireFormat) -> None:
        """A decoded value is off by at most half the distance of two levels, or of two adjacent floats."""
        for x_BCHW in _batches():
            for scale in _scales(wire):
                if scale is not None:  # sent values lie between 0 and the highest level
                    x_BCHW = np.clip(x_BCHW, 0, LEVELS[wire] * scale)
                found = decode(encode(x_BCHW, wire, scale), wire, _shape(x_BCHW), scale)
                assert found.dtype == np.float32
                assert (np.abs(found - x_BCHW) <= _half_step(x_BCHW, wire, scale)).all()

    def test_equal_values_come_back_exactly(self, wire: WireFormat) -> None:
        """A sample of equal values that every format can represent is decoded exactly."""
        x_BCHW = np.full((2, 3, 1, 1), 0.75, np.float32)
        np.testing.assert_array_equal(decode(encode(x_BCHW, wire), wire, _shape(x_BCHW)), x_BCHW)

    def test_bytes_of_a_wrong_length_are_refused(self, wire: WireFormat) -> None:
        """A payload that is not one or more whole samples raises a RemoteProtocolError."""
        shape = Shape.chw(3, 2, 3)
        for scale in _scales(wire):
            sample_bytes = payload_bytes(shape.num_values, wire, learned=scale is not None)
            for length in range(3 * sample_bytes + 2):
                if length and length % sample_bytes == 0:
                    continue
                with pytest.raises(RemoteProtocolError, match=f"a {wire} payload of {length} bytes"):
                    decode(bytes(length), wire, shape, scale)

    def test_any_bytes_of_the_right_length_decode(self, wire: WireFormat) -> None:
        """Any bytes of the right length are decoded to a batch of fp32 values."""
        shape, random = Shape.chw(5, 1, 1), np.random.default_rng(0)
        for scale in _scales(wire):
            length = payload_bytes(shape.num_values, wire, 2, scale is not None)
            for payload in (b"\xff" * length, bytes(length), *(random.bytes(length) for _ in range(50))):
                found = decode(payload, wire, shape, scale)
                assert found.shape == (2, 5, 1, 1)
                assert found.dtype == np.float32

    def test_training_computes_what_the_devices_compute(self, wire: WireFormat) -> None:
        """The differentiable version gives the same values, bit for bit, and passes gradients."""
        torch = pytest.importorskip("torch")
        from sepnas.nets.exchange import through_wire

        for x_BCHW in _batches():
            for scale in _scales(wire):
                x, log_step = torch.tensor(x_BCHW, requires_grad=True), None
                if scale is not None:
                    log_step = torch.tensor(float(scale)).log().requires_grad_()
                    scale = np.float32(log_step.detach().exp())
                sent = through_wire(x, wire, log_step)
                received = decode(encode(x_BCHW, wire, scale), wire, _shape(x_BCHW), scale)
                np.testing.assert_array_equal(received, sent.detach().numpy())
                sent.sum().backward()  # type: ignore[no-untyped-call]
                assert torch.isfinite(x.grad).all()
                assert log_step is None or torch.isfinite(log_step.grad)

    def test_a_policy_may_name_it(self, wire: WireFormat) -> None:
        """A transfer in this format round-trips, with each kind of scale that the format supports."""
        for scale in ("sample", "learned") if wire in LEVELS else ("sample",):
            transfer = Transfer(source=0, destination=1, wire=wire, scale=scale)
            assert Transfer.model_validate(transfer.model_dump(mode="json")) == transfer

    def test_every_device_profile_prices_it(self, wire: WireFormat) -> None:
        """Every device profile has a cost for the format, even one measured before the format existed."""
        assert ConversionCosts().of(wire) == 0
        read = ExchangeCosts.model_validate({"convert_s_per_value": {"fp16": 1e-9, "int8": 2e-9, "int4": 3e-9}})
        assert read.convert_s_per_value.of(wire) >= 0


def _batches() -> Iterator[Array]:
    """Batches ``(B, C, H, W)`` of one to three samples with one or more values."""
    random = np.random.default_rng(0)
    for shape in ((1, 1, 1, 1), (1, 3, 1, 1), (2, 4, 1, 1), (3, 5, 3, 2), (2, 8, 4, 4), (1, 7, 5, 3)):
        for size in (1e-3, 1.0, 1e3):
            yield (size * random.standard_normal(shape)).astype(np.float32)


def _scales(wire: WireFormat) -> tuple[np.float32 | None, ...]:
    """The scales to test: None for the sample's own, and a learned step if the format has levels."""
    return (None, _STEP) if wire in LEVELS else (None,)


def _half_step(x_BCHW: Array, wire: WireFormat, scale: np.float32 | None) -> Array:
    """The largest allowed error of each value, including rounding in fp32."""
    if wire not in LEVELS:
        float_type = np.finfo(f"f{ENCODINGS[wire].bits // 8}")
        return np.maximum(np.abs(x_BCHW) * np.float32(float_type.eps / 2), np.float32(float_type.smallest_subnormal))
    if scale is not None:
        return np.full_like(x_BCHW, scale / 2 * _ROUNDING)
    samples = x_BCHW.reshape(len(x_BCHW), -1)
    step = (samples.max(axis=1) - samples.min(axis=1)) / LEVELS[wire]
    rounding = np.abs(samples).max(axis=1) * np.finfo(np.float32).eps * 4
    half: Array = (step / 2 * _ROUNDING + rounding).reshape(-1, 1, 1, 1).astype(np.float32)
    return half


def _shape(x_BCHW: Array) -> Shape:
    return Shape.chw(*x_BCHW.shape[1:])
