"""One trial, ``python -m sepnas.search.trials.trial`` in a kit's folder: evaluates the genotypes that NNI passes.

Each result is reported immediately, so that a trial that dies loses only its current one. It repeats its genotype,
because NNI may have passed another trial's parameters.
"""

from __future__ import annotations

import faulthandler
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import nni
from nni.runtime.trial_command_channel import set_default_trial_command_channel
from nni.runtime.trial_command_channel.v3 import TrialCommandChannelV3

from sepnas.search.metric import metric_of
from sepnas.search.trials import spare_loopback_of_proxies
from sepnas.search.trials.kit import read_evaluator

WATCH_INTERVAL_S = 1.0


class PlainChannel(TrialCommandChannelV3):  # type: ignore[misc]  # NNI has no types
    """NNI's channel with plain JSON parameters; NNI would import and unpickle names in them."""

    def receive_parameter(self) -> Any:
        self._channel.send({"type": "request_parameter"})
        received = self._channel.receive()
        return None if received is None else json.loads(received["parameter"])


def main() -> None:
    faulthandler.enable()  # NNI's process reports the last output of a failed trial
    _end_with_parent()
    spare_loopback_of_proxies()
    set_default_trial_command_channel(PlainChannel(os.environ["NNI_TRIAL_COMMAND_CHANNEL"]))
    evaluator = read_evaluator(Path())
    best = 0.0
    for genotype in nni.get_next_parameter()["genotypes"]:
        started = time.perf_counter()
        accuracies = evaluator(genotype)
        seconds = time.perf_counter() - started
        nni.report_intermediate_result(metric_of(genotype, accuracies, seconds))
        best = max(best, accuracies["accuracy"])
    nni.report_final_result(best)


def _end_with_parent() -> None:
    """Exit when NNI's process, the parent of a machine's trials, ends."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_INTERVAL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
