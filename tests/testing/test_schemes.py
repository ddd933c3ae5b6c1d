"""Every scheme keeps the contract; the closed formulas of a few are given to it as hooks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sepnas.partition.schemes.registry import SCHEMES
from sepnas.partition.schemes.scheme import Scheme
from sepnas.testing.graphs import Builder
from sepnas.testing.schemes import Formula, SchemeContract

QUICK = ("groups",)


class TestEveryScheme(SchemeContract):
    @pytest.fixture(params=[pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SCHEMES])
    def scheme(self, request: pytest.FixtureRequest) -> Scheme:
        found: Scheme = SCHEMES[request.param]
        return found

    @pytest.fixture
    def formulas(self, scheme: Scheme) -> Sequence[Formula]:
        cases = [_of_fully_connected(scheme.name, devices) for devices in (2, 4)] + [_of_groups(scheme.name, 2)]
        return [case for case in cases if case.payload_bytes >= 0]


def _of_fully_connected(scheme: str, devices: int) -> Formula:
    """Two fully connected layers of 16 and 8 outputs: by outputs their inputs are gathered, by inputs outputs added."""
    made = Builder(32)
    made.linear(16)
    made.linear(8)
    others, macs = devices - 1, 32 * 16 + 16 * 8
    bytes_of = {
        "output-channels": 4 * others * 16 + 4 * 8 * others // devices,
        "input-channels": 4 * others * (16 + 8) + 4 * 8 * others // devices,
        "pairs": 4 * others * 8 + 4 * 8 * others // devices,
    }
    return Formula(made.graph(), [1] * devices, bytes_of.get(scheme, -1), macs)


def _of_groups(scheme: str, devices: int) -> Formula:
    """A grouped convolution between two dense ones: its input is scattered, its output gathered."""
    channels, side = 8, 6
    made = Builder(3, side, side)
    made.conv(channels, 1)
    made.conv(channels, 3, groups=4, padding=(1, 1))
    made.then("relu")
    made.conv(5, 1)
    macs = side**2 * (3 * channels + 9 * channels * 2 + channels * 5)
    sent = 4 * 2 * channels * side**2 * (devices - 1) // devices
    return Formula(made.graph(), [1] * devices, sent if scheme == "groups" else -1, macs)
