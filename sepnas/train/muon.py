"""Muon: momentum whose update is orthogonalised, for the matrices of convolutions (K. Jordan et al., 2024).

A weight ``(out, in / groups, k, k)`` is one matrix ``(out / groups, in / groups * k * k)`` for each group. The update
is the nearest semi-orthogonal matrix to the momentum, so that all directions learn at one rate. Weights are kept at the
norm of such a matrix. With batch norm behind a convolution, that leaves the function as it is and makes the rate
relative to the weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

NEWTON_SCHULZ_STEPS = 3
_COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the quintic iteration, chosen for the steepest rise at 0: singular values end between about 0.7 and 1.2."""
_TINY = 1e-7


def orthogonalised(matrices_MRC: Tensor, steps: int = NEWTON_SCHULZ_STEPS) -> Tensor:
    """Matrices near the semi-orthogonal factors of ``(M, rows, columns)``, by Newton-Schulz steps on all at once."""
    a, b, c = _COEFFICIENTS
    tall = matrices_MRC.shape[1] > matrices_MRC.shape[2]
    x = matrices_MRC.transpose(1, 2) if tall else matrices_MRC
    x = x / (x.norm(dim=(1, 2), keepdim=True) + _TINY)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    found: Tensor = x.transpose(1, 2) if tall else x
    return found


def muon_weights(network: nn.Module) -> dict[str, int]:
    """The groups of each weight that Muon trains, by name: dense and grouped convolutions behind the first layer.

    The first convolution, depthwise ones, the classifier, norms and biases are left to another optimizer.
    """
    found: dict[str, int] = {}
    first = True
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        rows = module.out_channels // module.groups
        if not first and rows > 1 and module.weight.requires_grad:
            found[f"{name}.weight"] = module.groups
        first = False
    return found


class Muon(Optimizer):
    """Muon for convolution weights; each parameter group has a number of ``groups`` of the convolutions."""

    def __init__(
        self, params: Iterable[dict[str, Any]], lr: float, momentum: float = 0.9, nesterov: bool = True
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "groups": 1})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; weights of one shape are orthogonalised together."""
        del closure
        stacks: dict[tuple[int, int, float], list[tuple[Tensor, Tensor]]] = {}
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                moved = state["momentum_buffer"].mul_(group["momentum"]).add_(weight.grad)
                if group["nesterov"]:
                    moved = weight.grad.add(moved, alpha=group["momentum"])
                matrices = _matrices(moved, group["groups"])
                stacks.setdefault((*matrices.shape[1:], group["lr"]), []).append((weight, matrices))
        for (rows, _, rate), members in stacks.items():
            updates = orthogonalised(torch.cat([matrices.float() for _, matrices in members]))
            for (weight, matrices), update in zip(
                members, torch.split(updates, [len(matrices) for _, matrices in members]), strict=True
            ):
                own = _matrices(weight, len(matrices))
                own = own * (rows**0.5 / own.norm(dim=(1, 2), keepdim=True).clamp_min(_TINY))
                weight.copy_((own - rate * update).reshape(weight.shape))


def _matrices(weight: Tensor, groups: int) -> Tensor:
    return weight.reshape(groups, weight.shape[0] // groups, -1)
