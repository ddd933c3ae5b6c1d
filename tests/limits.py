"""Limits of waiting for what comes anyway: longer than it takes on a machine ten times as busy."""

SOON_S = 180.0
"""For anything that does not hang."""
PROCESS_S = 300.0
"""For a process to start, or to end."""
