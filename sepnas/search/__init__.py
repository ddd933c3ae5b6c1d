"""Searching a space of policies: a supernet, NNI with a strategy for many objectives, a Pareto front."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sepnas.search.candidate import Candidate
from sepnas.search.choose import pick
from sepnas.search.folder import load_candidates, load_front

if TYPE_CHECKING:
    from sepnas.search.run import SearchResult, run_search

__all__ = ["Candidate", "SearchResult", "load_candidates", "load_front", "pick", "run_search"]


def __getattr__(name: str) -> Any:
    # Late: reading a front needs no torch.
    if name in ("SearchResult", "run_search"):
        from sepnas.search import run

        return getattr(run, name)
    raise AttributeError(f"module 'sepnas.search' has no attribute {name!r}")
