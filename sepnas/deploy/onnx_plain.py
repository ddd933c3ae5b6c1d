"""What an exported program computes, in operators that every reader of ``.onnx`` files has for any number of axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram


def plain(program: ExportedProgram) -> ExportedProgram:
    """The program with attention and group norms taken apart."""
    present = {node.target for node in program.graph.nodes}
    table = {operator: made for operator, made in _APART.items() if operator in present}
    return program.run_decompositions(table) if table else program


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa and query.dim() > 2:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = torch.where(attn_mask, scores, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ value


def _group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    sizes = x.shape[1:]
    grouped = x.reshape(-1, num_groups, math.prod(sizes) // num_groups)
    found = torch.nn.functional.layer_norm(grouped, grouped.shape[-1:], eps=eps).reshape(-1, *sizes)
    per_channel = (-1, *(1 for _ in sizes[1:]))
    found = found if weight is None else found * weight.reshape(per_channel)
    return found if bias is None else found + bias.reshape(per_channel)


_APART: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.scaled_dot_product_attention.default: _attention,
    torch.ops.aten.group_norm.default: _group_norm,
}
