"""A message between two workers with the package of one tree, this one's or an earlier commit's.

Each line that it reads makes a pair of workers exchange messages anew; it writes the median seconds of a message. What
it imports lies in the experiment's folder of the same tree.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median

import messages


def serve() -> None:
    """Answer each line."""
    with tempfile.TemporaryDirectory(prefix="sepnas-overhead-") as name:
        folder = Path(name) / "deployment"
        messages.write_deployment(folder)
        for _ in sys.stdin:
            print(median(messages.worker_message_s(folder)), flush=True)


if __name__ == "__main__":
    serve()
