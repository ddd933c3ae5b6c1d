"""Training through ``torch.compile``: the same losses and gradients, and what is said where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sepnas.errors import TrainingError
from sepnas.nets.separable import SeparableNetwork
from sepnas.train.checkpoint import LAST, new_network
from sepnas.train.compiled import compiled
from sepnas.train.recipe import Recipe
from sepnas.train.steps import step_of
from tests.cli.test_train_command import error_of
from tests.train.test_train import RECIPE, same_tensors, small_architecture, small_data, train


def loss_and_gradients(compile_it: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Of one step of a network that writes its message in four bits with a learned scale."""
    architecture = small_architecture()
    network: SeparableNetwork = new_network(
        architecture.with_policy(architecture.policy.written_in("int4", "learned")), 1
    )
    split = small_data().train
    step = step_of(Recipe(epochs=1), compile_it=compile_it)
    loss = step(network, small_data().normalise(split.images), split.labels, torch.Generator())
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), {name: x.grad for name, x in network.named_parameters() if x.grad is not None}


@pytest.mark.slow
def test_compiled_steps_are_the_same_steps() -> None:
    """Loss and every gradient, those of learned scales too, to rounding."""
    (plain, gradients), (fast, others) = loss_and_gradients(False), loss_and_gradients(True)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.slow
def test_a_compiled_run_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    """And its checkpoint has the names of any other."""
    train(tmp_path / "whole", compiled=True)
    train(tmp_path / "pieces", compiled=True, stop_after_s=0)
    assert train(tmp_path / "pieces", compiled=True, resume=True).finished
    assert same_tensors(tmp_path / "whole" / LAST, tmp_path / "pieces" / LAST)
    assert train(tmp_path / "whole", resume=True).finished


def test_steps_with_dropout_are_not_compiled(tmp_path: Path) -> None:
    """The message names the option to leave out, and nothing is written."""
    recipe = RECIPE.model_copy(update={"message_dropout": 0.2})
    with pytest.raises(TrainingError, match="train uncompiled"):
        train(tmp_path / "run", recipe, compiled=True)
    assert not (tmp_path / "run").exists()


def test_without_a_compiler_one_trains_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the compiler says first is told, and what to do."""

    def failing(*arguments: Any) -> Any:
        raise torch._dynamo.exc.BackendCompilerFailed(compiled, RuntimeError("no C++ compiler"), None)

    monkeypatch.setattr(torch, "compile", lambda function, **options: failing)
    with pytest.raises(TrainingError, match=r"fails here: .*; train uncompiled"):
        compiled(torch.relu)(torch.zeros(1))


def test_the_terminal_compiles(tmp_path: Path) -> None:
    """``--compile`` reaches the steps: where these cannot be compiled it is refused."""
    train_it = ("train", "resnext11_2x4d", "-n", 2, "--out", tmp_path / "run", "--device-dropout", 0.1, "--compile")
    assert "train uncompiled" in error_of(TrainingError, *train_it)
