"""One trial, ``python -m sepnas.search.trials.trial`` in a kit's folder: judges the genotypes that NNI hands it.

Each answer is reported when it is known, so that a trial which dies loses no other, and repeats its genotype, because
NNI may have handed this trial another one's parameters.
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
from sepnas.search.trials.kit import read_judge

WATCH_INTERVAL_S = 1.0


class PlainChannel(TrialCommandChannelV3):  # type: ignore[misc]  # NNI has no types
    """NNI's channel, whose parameters are JSON: NNI would import and unpickle what they name."""

    def receive_parameter(self) -> Any:
        self._channel.send({"type": "request_parameter"})
        received = self._channel.receive()
        return None if received is None else json.loads(received["parameter"])


def main() -> None:
    faulthandler.enable()  # NNI's process tells what a trial that fails wrote last
    _end_with_parent()
    spare_loopback_of_proxies()
    set_default_trial_command_channel(PlainChannel(os.environ["NNI_TRIAL_COMMAND_CHANNEL"]))
    judge = read_judge(Path())
    best = 0.0
    for genotype in nni.get_next_parameter()["genotypes"]:
        started = time.perf_counter()
        accuracies = judge(genotype)
        seconds = time.perf_counter() - started
        nni.report_intermediate_result(metric_of(genotype, accuracies, seconds))
        best = max(best, accuracies["accuracy"])
    nni.report_final_result(best)


def _end_with_parent() -> None:
    """Do not outlive NNI's process, which starts the trials of a machine."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_INTERVAL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
