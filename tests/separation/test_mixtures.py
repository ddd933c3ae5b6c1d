"""Mixtures and estimates, by themselves: together exact, each worth what it says, and better than channels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepnas.separation.mixtures import Arrival, Known, rounding_of
from sepnas.separation.statistics import Array, ChannelStatistics


@dataclass(frozen=True)
class Case:
    """Correlated channels, of which a device has ``own``; two others have the rest, which ``readers`` read."""

    statistics: ChannelStatistics
    own: Array
    sources: tuple[Array, Array]
    readers: Array
    samples: Array

    @property
    def known(self) -> Known:
        return Known(self.statistics, self.own)

    def had(self, arrivals: list[Arrival]) -> Array:
        """What the device has of the samples: its own channels, then what arrives; (samples, values)."""
        found = [self.samples[:, self.own]]
        for each in arrivals:
            taken = self.samples[:, each.channels]
            found.append(taken if each.mixtures is None else taken @ each.mixtures.T)
        return np.hstack(found)

    def estimated(self, arrivals: list[Arrival]) -> Array:
        """All channels of the samples as the device estimates them."""
        estimate = self.known.estimate(arrivals)
        return self.had(arrivals) @ estimate.matrix.T + estimate.offset


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Channels of any rank, some of which may be constant; any number of own ones, also none; any number of readers."""
    numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = [draw(st.integers(0, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 5))]
    order, ends = numbers.permutation(sum(sizes)), np.cumsum(sizes)[:-1]
    own, *sources = (np.sort(each) for each in np.split(order, ends))
    count, rank = 40, draw(st.integers(1, sum(sizes)))
    samples = numbers.normal(size=(count, rank)) @ numbers.normal(size=(rank, sum(sizes))) + numbers.normal(size=(1,))
    samples[:, numbers.random(sum(sizes)) < draw(st.sampled_from([0, 0.3]))] = 2
    statistics = ChannelStatistics(samples.mean(0), np.cov(samples.T, bias=True).reshape(sum(sizes), -1))
    readers = numbers.normal(size=(draw(st.integers(1, 12)), sum(sizes)))
    return Case(statistics, own, (sources[0], sources[1]), readers, samples)


def scale(case: Case) -> float:
    return float(np.abs(case.samples @ case.readers.T).max())


@given(cases())
def test_all_mixtures_are_exact_for_their_readers(case: Case) -> None:
    """However few samples there were, and however few readers: what these read is right, for other samples too."""
    arrivals = [Arrival(each, case.known.basis(each, case.readers[:, each]).mixtures) for each in case.sources]
    assert all(each.width <= min(len(case.readers), len(each.channels)) for each in arrivals)
    for samples in (case.samples, np.random.default_rng(0).normal(size=case.samples.shape)):
        other = Case(case.statistics, case.own, case.sources, case.readers, samples)
        wrong = (other.estimated(arrivals) - samples) @ case.readers.T
        assert np.abs(wrong).max() <= 1e-6 * scale(other)


def test_large_means_leave_covariances_positive() -> None:
    """Channels whose means are 10,000 times their deviations, and that follow one factor, have mixtures."""
    numbers = np.random.default_rng(0)
    samples = 10_000 + numbers.normal(size=(500, 1)) + 1e-4 * numbers.normal(size=(500, 16))
    mean = samples.mean(0)
    statistics = ChannelStatistics(mean, samples.T @ samples / 500 - np.outer(mean, mean))
    found = Known(statistics, np.arange(8)).basis(np.arange(8, 16), numbers.normal(size=(16, 8)))
    assert len(found.values) == 8


@given(cases(), st.floats(0, 0.9))
def test_padding_counts_among_the_samples(case: Case, share: float) -> None:
    """Means and covariances are those of the samples and of so many zeros, per sample that is none."""
    found, count = case.statistics.padded(share), len(case.samples)
    zeros = share / (1 - share) * count
    assert np.allclose(found.mean, case.samples.sum(0) / (count + zeros), rtol=1e-6, atol=1e-9)
    centred = case.samples - found.mean
    wanted = (centred.T @ centred + zeros * np.outer(found.mean, found.mean)) / (count + zeros)
    assert np.allclose((1 - share) * found.covariance, wanted, rtol=1e-6, atol=1e-6)


@given(cases())
def test_channels_that_arrive_are_themselves(case: Case) -> None:
    """Sent or own channels are estimated by themselves, and all of them leave no error."""
    arrivals = [Arrival(each) for each in case.sources]
    assert np.allclose(case.estimated(arrivals), case.samples, rtol=0, atol=1e-9 * np.abs(case.samples).max())
    first = case.estimated(arrivals[:1])
    there = np.concatenate([case.own, case.sources[0]])
    assert np.allclose(first[:, there], case.samples[:, there], rtol=0, atol=1e-9 * np.abs(case.samples).max())


@given(cases())
def test_estimates_are_right_on_average(case: Case) -> None:
    """The mean of what is estimated is that of the channels, whatever arrives."""
    basis = case.known.basis(case.sources[0], case.readers[:, case.sources[0]])
    for arrivals in ([], [Arrival(case.sources[0], basis.mixtures[:1])]):
        wrong = (case.estimated(arrivals) - case.samples).mean(0)
        assert np.abs(wrong).max() <= 1e-8 * max(1, np.abs(case.samples).max())


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(0, 4))
def test_an_estimate_from_own_channels_is_the_best_linear_one(seed: int, own: int, others: int) -> None:
    """That of least squares on the samples, with a ridge of a hundredth of the own channels' mean variance."""
    numbers, count = np.random.default_rng(seed), own + others
    samples = numbers.normal(size=(200, count)) @ numbers.normal(size=(count, count)) + numbers.normal(size=count)
    case = Case(
        ChannelStatistics(samples.mean(0), np.cov(samples.T, bias=True).reshape(count, -1)), np.arange(own),
        (np.arange(0), np.arange(0)), np.eye(count), samples,
    )  # fmt: skip
    found, centred = case.estimated([]), samples - samples.mean(0)
    ridge = 0.01 * np.square(centred[:, :own]).mean()
    rows = np.vstack([centred[:, :own], np.sqrt(200 * ridge) * np.eye(own)])
    slopes = np.linalg.lstsq(rows, np.vstack([centred, np.zeros((own, count))]), rcond=None)[0][:, own:]
    assert np.allclose(found[:, own:], samples.mean(0)[own:] + centred[:, :own] @ slopes, rtol=1e-6, atol=1e-6)
    best = np.linalg.lstsq(centred[:, :own], centred, rcond=None)[0]
    least = float(np.square(centred[:, :own] @ best - centred).sum())
    assert least - 1e-6 <= float(np.square(found - samples).sum())
    assert float(np.square(found - samples).sum()) <= least + 200 * ridge * float(np.square(best[:, own:]).sum()) + 1e-6


def error_left(case: Case, count: int) -> float:
    """The expected square error in what is read of the first source's channels, if so many mixtures arrive."""
    channels = case.sources[0]
    mixtures = case.known.basis(channels, case.readers[:, channels]).mixtures[:count]
    back = case.known.estimate([Arrival(channels, mixtures)]).matrix[channels, len(case.own) :]
    lost = case.readers[:, channels] @ (np.eye(len(channels)) - back @ mixtures)
    return float(np.trace(lost @ case.known.residual_of(channels) @ lost.T))


@given(cases())
def test_a_mixture_is_worth_the_error_that_its_absence_leaves(case: Case) -> None:
    """The error of the first mixtures is the sum of the values of all others, which fall."""
    channels = case.sources[0]
    basis = case.known.basis(channels, case.readers[:, channels])
    assert (np.diff(basis.values) <= 1e-9 * basis.values[0]).all()
    for count in range(1, len(basis.values) + 1):
        left = error_left(case, count)
        assert left == pytest.approx(basis.values[count:].sum(), rel=1e-6, abs=1e-8 * basis.values.sum())
    nothing = np.trace(case.readers[:, channels] @ case.known.residual_of(channels) @ case.readers[:, channels].T)
    assert basis.values.sum() == pytest.approx(nothing, rel=1e-6)


def expected_error(case: Case, arrivals: list[Arrival], channels: Array) -> float:
    """The expected square error in what is read of some channels of others, errors of what arrives included."""
    others, found = case.known.others, case.known.estimate(arrivals).matrix[:, len(case.own) :]
    taken = case.known._read(arrivals)[0][:, others]
    lost = np.eye(len(others)) - found[others] @ taken
    kept = np.isin(others, channels)
    readers, noise = case.readers[:, others[kept]], [np.full(each.width, each.noise) for each in arrivals]
    left = readers @ (lost @ case.known.residual_of(others) @ lost.T)[np.ix_(kept, kept)] @ readers.T
    rounded = readers @ found[others[kept]] @ np.diag(np.concatenate(noise)) @ found[others[kept]].T @ readers.T
    return float(np.trace(left + rounded))


@given(cases(), st.sampled_from(["int8", "int4", "int2"]))
def test_a_rounded_mixture_is_worth_what_arrives_of_it(case: Case, wire: str) -> None:
    """With rounding as noise, the error is the values less what arrives of them, however coarse the format is."""
    channels = case.sources[0]
    basis = case.known.basis(channels, case.readers[:, channels])
    assert (basis.values_in(wire) > 0).all()
    arrival = Arrival(channels, basis.mixtures, noise=rounding_of(wire))
    left = basis.values.sum() - basis.values_in(wire).sum()
    assert expected_error(case, [arrival], channels) == pytest.approx(left, rel=1e-5, abs=1e-8 * basis.values.sum())


@given(cases(), st.floats(0, 1))
def test_mixtures_tell_of_all_channels(case: Case, noise: float) -> None:
    """What one device sends improves the estimate of another's channels, and never spoils it."""
    first, second = case.sources
    arrivals = [
        Arrival(each, case.known.basis(each, case.readers[:, each]).mixtures[:2], noise=noise) for each in case.sources
    ]
    alone, together = expected_error(case, arrivals[1:], second), expected_error(case, arrivals, second)
    assert together <= alone + 1e-7 * max(alone, 1e-3)
    copies = np.hstack([case.samples, case.samples[:, first]])
    copied = ChannelStatistics(copies.mean(0), np.cov(copies.T, bias=True))
    last = np.arange(len(first)) + case.samples.shape[1]
    known = Known(copied, np.arange(0))
    sent = copies[:, first] @ known.estimate([Arrival(first)]).matrix[last].T
    centred, wanted = sent - sent.mean(0), copies[:, last] - copies[:, last].mean(0)
    assert np.square(centred - wanted).sum() <= 0.02 * np.square(copies - copies.mean(0)).sum() + 1e-9


@given(cases(), st.booleans())
def test_mixtures_have_a_variance_of_one_at_most(case: Case, centred: bool) -> None:
    """Over the samples; those that are not centred have a mean square of one at most."""
    channels = case.sources[0]
    basis = case.known.basis(channels, case.readers[:, channels], centred)
    sent = case.samples[:, channels] @ basis.mixtures.T
    squares = sent.var(0) if centred else np.square(sent).mean(0)
    assert (squares <= 1 + 1e-6).all()
    assert ((basis.news > 0) & (basis.news <= 1)).all()


@given(cases())
def test_an_offset_of_the_sender_changes_no_estimate(case: Case) -> None:
    """What it adds is taken off again."""
    channels = case.sources[0]
    mixtures = case.known.basis(channels, case.readers[:, channels]).mixtures
    offset = np.arange(1.0, 1 + len(mixtures))
    plain, moved = (case.known.estimate([Arrival(channels, mixtures, each)]) for each in (None, offset))
    assert np.array_equal(plain.matrix, moved.matrix)
    wanted = plain.offset - plain.matrix[:, len(case.own) :] @ offset
    assert np.allclose(moved.offset, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())


def best_channels(case: Case, count: int) -> float:
    """The least expected error of so many of the first source's channels, all else being estimated from them."""
    channels = case.sources[0]
    residual, readers = case.known.residual_of(channels), case.readers[:, channels]
    found = []
    for taken in combinations(range(len(channels)), count):
        part = residual[:, taken]
        left = residual - part @ np.linalg.solve(residual[np.ix_(taken, taken)], part.T)
        found.append(float(np.trace(readers @ left @ readers.T)))
    return min(found)


@settings(max_examples=40)
@given(cases())
def test_no_channels_leave_less_error_than_as_many_mixtures(case: Case) -> None:
    """Not even the best of all choices of channels, from which the others are estimated as well as can be."""
    channels = case.sources[0]
    basis = case.known.basis(channels, case.readers[:, channels])
    for count in range(1, min(len(channels) - 1, len(basis.values)) + 1):
        assert error_left(case, count) <= best_channels(case, count) + 1e-8 * basis.values.sum()


def test_measured_errors_are_the_expected_ones() -> None:
    """On the samples that were measured, values are square errors, but for what ridge and floor add."""
    numbers = np.random.default_rng(3)
    samples = numbers.normal(size=(400, 4)) @ numbers.normal(size=(4, 12)) + 0.5 * numbers.normal(size=(400, 12))
    statistics = ChannelStatistics(samples.mean(0), np.cov(samples.T, bias=True))
    case = Case(statistics, np.arange(4), (np.arange(4, 12), np.arange(0)), numbers.normal(size=(7, 12)), samples)
    channels = case.sources[0]
    basis = case.known.basis(channels, case.readers[:, channels])
    for count in range(1, 6):
        wrong = case.estimated([Arrival(channels, basis.mixtures[:count])]) - samples
        left = float(np.square(wrong @ case.readers.T).sum(1).mean())
        assert left == pytest.approx(basis.values[count:].sum(), rel=0.05)


def test_what_is_correlated_is_not_sent_again() -> None:
    """A channel that the device's own ones determine is worth next to nothing, however large its weights are."""
    numbers = np.random.default_rng(0)
    first = numbers.normal(size=(100, 2))
    samples = np.hstack([first, 3 * first[:, :1], numbers.normal(size=(100, 1))])
    statistics = ChannelStatistics(samples.mean(0), np.cov(samples.T, bias=True))
    known, readers = Known(statistics, np.array([0, 1])), np.ones((1, 1))
    copied, new = (float(known.basis(np.array([channel]), readers).values[0]) for channel in (2, 3))
    assert copied < 0.02 * 9
    assert new > 0.8
