"""How messages and errors name the ends of a connection."""

from __future__ import annotations


def rank_name(rank: int) -> str:
    return "the client" if rank < 0 else f"device {rank}"
