"""What all tests share."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

# the networks of the tests are tiny: more threads would only wait for each other
torch.set_num_threads(1)
# a shell lets its background jobs ignore Ctrl-C, and so would the processes that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)
