"""Whether the processor computes in bf16; where it does not, torch emulates it, many times slower."""

from __future__ import annotations

import torch

_CAPABILITIES = ("avx512_bf16", "amx_bf16", "amx_tile", "bf16", "sve_bf16")


def has_bf16() -> bool:
    """Whether bf16 is computed by a GPU or by instructions of the CPU; True if torch cannot say."""
    if torch.cuda.is_available():
        return True
    ask = getattr(torch.cpu, "get_capabilities", None)  # torch 2.11 and later
    return True if ask is None else any(ask().get(name) for name in _CAPABILITIES)
