"""Quantities as people type them."""

from __future__ import annotations

import re
from functools import partial

import pytest

from sepnas.units import (
    format_bytes,
    format_joules,
    format_rate,
    format_seconds,
    format_share,
    number,
    parse_bytes,
    parse_joules,
    parse_rate,
    parse_seconds,
    parse_share,
    parse_timeout,
    seconds,
)

timeout = partial(parse_timeout, max_s=86_400)


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (parse_bytes, "200KB", 200_000),
        (parse_bytes, "1.5 mb", 1_500_000),
        (parse_bytes, "64KiB", 65_536),
        (parse_bytes, "50000", 50_000),
        (parse_bytes, "10B", 10),
        (parse_seconds, "20ms", 0.02),
        (parse_seconds, "800us", 8e-4),
        (parse_seconds, "1.5s", 1.5),
        (timeout, "100ms", 0.1),
        (timeout, "10", 10.0),
        (parse_joules, "0.5J", 0.5),
        (parse_joules, "20mJ", 0.02),
        (parse_share, "57%", 0.57),
        (parse_share, "0.95", 0.95),
    ],
)
def test_quantities_are_read_as_people_type_them(read, text: str, value: float) -> None:  # type: ignore[no-untyped-def]
    """Numbers with their units give exactly what they say in bytes, seconds, joules and shares."""
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text", "allowed"),
    [
        (parse_bytes, "200KX", "200KB, 1.5MB, 64MiB or 50000"),
        (parse_bytes, "-5", "50000"),
        (parse_bytes, "", "50000"),
        (parse_seconds, "20", "us, ms or s, such as 20ms"),
        (parse_seconds, "nan", "such as 20ms"),
        (parse_joules, "1MJ", "uJ, mJ, J or kJ"),
        (timeout, "2d", "such as 100ms"),
        (timeout, "0", "must be at least 1 ms and at most 86400 s, got 0"),
        (parse_share, "95", "more than everything; give a share such as 95% or 0.95"),
    ],
)
def test_unclear_quantities_are_refused(read, text: str, allowed: str) -> None:  # type: ignore[no-untyped-def]
    """A quantity whose unit is missing or unknown is refused with what is allowed."""
    with pytest.raises(ValueError, match=re.escape(allowed)):
        read(text)


@pytest.mark.parametrize(
    "number", ["1e400", "9" * 5000, "1e-400", "1e99999999999999999999", "1e-99999999999999999999", "\u0663", "\uff11"]
)
@pytest.mark.parametrize(("read", "unit"), [(parse_bytes, "KB"), (parse_seconds, "s"), (parse_joules, "J")])
def test_a_quantity_is_finite_and_not_rounded_to_zero(read, unit: str, number: str) -> None:  # type: ignore[no-untyped-def]
    """A number that a float cannot hold, or of digits other than 0 to 9, is refused in one short line."""
    with pytest.raises(ValueError, match=r"too large or too small|cannot be read") as error:
        read(number + unit)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("zero", ["0s", "0.0s", "0e5s", "0e-999s"])
def test_a_zero_that_is_written_is_read(zero: str) -> None:
    """A quantity that was written as 0 is 0."""
    assert parse_seconds(zero) == 0


@pytest.mark.parametrize(
    ("write", "read", "text"),
    [
        (format_bytes, parse_bytes, "1e+291 GB"),
        (format_seconds, parse_seconds, "1e+300 s"),
        (format_joules, parse_joules, "1e+300 J"),
        (format_rate, parse_rate, "1e+300/s"),
    ],
)
def test_large_numbers_are_written_with_an_exponent(write, read, text: str) -> None:  # type: ignore[no-untyped-def]
    """A figure of 300 digits is shown with three of them, and is read back; one of twelve digits is shown whole."""
    assert write(1e300) == text
    assert read(text) == pytest.approx(1e300)
    assert "123,456,789,012" in format_seconds(123_456_789_012.0)
    assert max(len(each(1e300)) for each in (seconds, number, format_share)) < 12
    assert number(17_563_828_224) == "17,563,828,224"
