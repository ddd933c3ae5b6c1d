"""Every backbone goes the whole way: searched, trained, exported, and run by worker processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sepnas.local.pipeline import Chain, run_chain
from sepnas.separable.backbones.registry import BACKBONES
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import uniform_cluster
from sepnas.train.data import load_dataset
from tests.separable.test_backbones import space_of


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_devices_answer_as_the_trained_network(backbone: str, tmp_path: Path) -> None:
    """What a search finds in a family's space is trained on digits; its devices agree with the whole network, and send
    the predicted bytes."""
    data = space_of(backbone).to_data()
    data["policy"] |= {"patterns": ["ring:1", "all-to-all"], "readouts": ["mean"]}  # all candidates send something
    space = SearchSpace.from_data(data)
    digits = load_dataset("digits", image_size=space.network.image_size)
    digits = replace(digits, test=digits.test.take(torch.arange(40)))
    outcome = run_chain(
        Chain(
            space,
            uniform_cluster(2),
            digits,
            tmp_path,
            "digits",
            candidates=6,
            supernet_epochs=1,
            epochs=2,
            bytes_share=1.0,
        )
    )
    assert outcome.chosen.architecture.backbone == backbone
    assert outcome.answers.num_different == 0
    assert outcome.answers.largest_difference < 1e-4
    assert outcome.answers.counters.payload_bytes == outcome.answers.payload_bytes_predicted > 0
