"""The times of blocks on this machine, from which a cluster's rate is made."""

from __future__ import annotations

import pytest
import torch

import sepnas.deploy.profile as profile
from sepnas.local.measured_cluster import measure_device


@pytest.fixture(autouse=True)
def few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small networks instead of twelve."""
    monkeypatch.setattr(profile, "WIDTHS", (2, 8))
    monkeypatch.setattr(profile, "IMAGE_SIZES", (8,))


def test_every_layer_is_timed_with_its_work() -> None:
    """Stem, blocks and head of each network have a time; behind the stem wider ones have more work."""
    found = list(profile.time_blocks(repeats=1))
    narrow, wide = found[: len(found) // 2], found[len(found) // 2 :]
    assert len(narrow) == len(wide) == 5  # the stem, a block of each of three stages, the head
    assert all(each.seconds > 0 and each.flops > 0 for each in found)
    assert [each.num_kernels for each in (narrow[0], narrow[-1])] == [1, 1]
    assert all(each.num_kernels >= 3 for each in narrow[1:-1])
    assert all(more.flops > less.flops for less, more in zip(narrow[1:], wide[1:], strict=True))


def test_threads_are_given_back_even_when_nobody_listens_to_the_end() -> None:
    """The engine has as many threads afterwards as before, also where only the first time was taken."""
    torch.set_num_threads(2)
    times = profile.time_blocks(repeats=1, threads=1)
    next(times)
    assert torch.get_num_threads() == 1
    times.close()
    assert torch.get_num_threads() == 2


def test_a_machine_has_a_rate() -> None:
    """This machine is a device of its name with a positive rate and no negative overhead."""
    device = measure_device("here", repeats=1)
    assert device.name == "here"
    assert device.flops_per_s > 0
    assert device.layer_overhead_s >= 0
