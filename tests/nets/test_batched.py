"""Graphs are traced for one sample, and computed for any batch: each sample gets what it gets alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sepnas.nets.graph import GraphNetwork
from sepnas.testing.graphs import SMALL_GRAPHS, Builder

SAMPLES = 3


def check_samples(made: Builder, wanted_together: bool = True) -> None:
    """A batch gives the results of its samples one after the other."""
    network = GraphNetwork(made.graph(), made.weights).eval()
    assert (
        all(node.batch is not None or node.shared == node.dims.keys() for node in network._batched) == wanted_together
    )
    batch = torch.randn(SAMPLES, *made.dims("image")[1:])
    with torch.no_grad():
        each = [network(sample) for sample in batch.split(1)]
        found = network(batch)
    assert isinstance(found, Tensor)
    wanted = torch.stack(each) if each[0].dim() == 0 else torch.cat(each)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", SMALL_GRAPHS)
def test_small_graphs_compute_all_samples_at_once(name: str) -> None:
    """Every operator of the small graphs computes a batch as it computes one sample."""
    torch.manual_seed(0)
    made = SMALL_GRAPHS[name]()
    check_samples(made)
    network = GraphNetwork(made.graph(), made.weights)
    assert all(node.batch is None or node.batch.views is None for node in network._batched)


def flat() -> Builder:
    """Rows of three values, without the axis of samples."""
    made = Builder(SAMPLES, 4)
    made.then("reshape", size=(SAMPLES, 4))
    return made


def softmax_of_rows(made: Builder) -> None:
    made.then("softmax", dim=0)


def sum_of_all(made: Builder) -> None:
    made.then("sum", dim=(0, 1), keepdim=False)
    made.add("mul", {"self": made.last, "other": "image"})


def product_with_the_transposed(made: Builder) -> None:
    made.add("matmul", {"self": made.last, "other": made.then("permute", dims=(1, 0))})


def one_row(made: Builder) -> None:
    made.then("select", dim=0, index=1)
    made.linear(2)


def some_rows(made: Builder) -> None:
    made.then("slice", dim=0, start=1, end=3, step=1)


def a_weight_before_the_rows(made: Builder) -> None:
    made.add("cat", {"tensors.0": made.weight(2, 4), "tensors.1": made.last}, dim=0)


def a_weight_beside_the_rows(made: Builder) -> None:
    made.add("cat", {"tensors.0": made.weight(SAMPLES, 4), "tensors.1": made.last}, dim=1)


def a_weight_for_each_row(made: Builder) -> None:
    made.add("add", {"self": made.last, "other": made.weight(SAMPLES, 4)})


def rows_beside_samples(made: Builder) -> None:
    made.add("add", {"self": made.last, "other": "image"})


def rows_in_another_order(made: Builder) -> None:
    made.then("roll", shifts=(1,), dims=(0,))


def rows_repeated(made: Builder) -> None:
    made.then("repeat", repeats=(2, 1))


def a_new_axis_in_front(made: Builder) -> None:
    made.then("expand", size=(2, SAMPLES, 4))


def weights_alone(made: Builder) -> None:
    bias = made.add("add", {"self": made.weight(1, 2, 4), "other": made.weight(1, 2, 4)})
    made.add("cat", {"tensors.0": bias, "tensors.1": "image"}, dim=1)


def norm_of_rows(made: Builder) -> None:
    made.norm()


def rows_as_maps(made: Builder) -> None:
    made.then("reshape", size=(SAMPLES, 1, 2, 2))
    made.conv(5, 3, padding=(1, 1))
    made.then("max_pool2d", kernel_size=(2, 2))


OPERATORS = (
    softmax_of_rows, sum_of_all, product_with_the_transposed, one_row, some_rows, a_weight_before_the_rows,
    a_weight_beside_the_rows, a_weight_for_each_row, rows_beside_samples, rows_in_another_order, rows_repeated,
    a_new_axis_in_front, weights_alone, norm_of_rows, rows_as_maps,
)  # fmt: skip


@pytest.mark.parametrize("add", OPERATORS)
def test_operators_on_the_first_axis_keep_samples_apart(add: Callable[[Builder], None]) -> None:
    """Tensors without an axis of samples, with as many rows as there are samples: nothing is mixed up."""
    torch.manual_seed(0)
    made = flat()
    add(made)
    check_samples(made)


def test_what_cannot_be_computed_at_once_is_computed_sample_by_sample() -> None:
    """Padding with rows of the tensor itself, before the first row, has no form for several samples."""
    torch.manual_seed(0)
    made = flat()
    made.then("reshape", size=(SAMPLES, 4, 1, 1))
    made.then("pad", pad=(0, 0, 0, 0, 0, 0, 1, 1), value=0.5)
    made.then("cumsum", dim=0)
    made.then("unfold", dimension=0, size=2, step=1)
    check_samples(made, wanted_together=False)


def test_samples_of_another_number_of_values_broadcast_each_for_itself() -> None:
    """One value for each channel beside rows of channels: a batch of three does not take three rows for samples."""
    torch.manual_seed(0)
    made = Builder(SAMPLES, 4)
    rows = made.last
    made.then("mean", dim=(1,), keepdim=False)
    made.add("mul", {"self": rows, "other": made.last})
    check_samples(made)
