"""What all tests share."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

# the networks of the tests are tiny: more threads would only wait for each other
torch.set_num_threads(1)
