"""Search of a space of networks and policies: a supernet, NNI with a multi-objective strategy, a Pareto front."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sepnas.search.candidate import Candidate
    from sepnas.search.choose import pick
    from sepnas.search.folder import load_candidates, load_front
    from sepnas.search.run import SearchResult, run_search

__all__ = ["Candidate", "SearchResult", "load_candidates", "load_front", "pick", "run_search"]

_HOMES = {
    "Candidate": "candidate",
    "SearchResult": "run",
    "load_candidates": "folder",
    "load_front": "folder",
    "pick": "choose",
    "run_search": "run",
}


def __getattr__(name: str) -> Any:
    # Imported late: the command line uses this package without the search's libraries installed.
    if name in _HOMES:
        return getattr(import_module(f"sepnas.search.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sepnas.search' has no attribute {name!r}")
