"""A trained network is cut by a plan from a file, if the network has what the plan names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sepnas.deploy.plan_fit import check_fits, warn_of_other_messages
from sepnas.deploy.segments import SegmentExporter
from sepnas.deployment.serial import deployed_plan
from sepnas.errors import DataError, DeploymentError
from sepnas.nets.separable import SeparableNetwork
from sepnas.plan.document import PlanDocument, load_plan, save_plan
from sepnas.plan.liveness import prune
from sepnas.plan.plan import Plan, Port, Segment
from sepnas.plan.shapes import Region, Shape
from sepnas.plan.steps import CLIENT, Compute, Merge, Send
from sepnas.runtime.client.session import Session
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from tests.helpers_runtime import (
    export_tiny,
    lively_network,
    pair_architecture,
    threads,
    tiny_architecture,
    transfer,
    whole_logits,
)


@pytest.fixture(scope="module")
def network() -> SeparableNetwork:
    return lively_network(pair_architecture())


def test_a_network_is_cut_by_a_plan_file(network: SeparableNetwork, tmp_path: Path) -> None:
    """By the plan of another policy over the same layers the devices compute what that policy computes."""
    fewer = tiny_architecture([{"after": 1, "transfers": [transfer(1, 0)]}], devices=2, depth=11)
    plan = load_plan(save_plan(build_plan(fewer), tmp_path / "plan.json"))
    with pytest.warns(UserWarning, match="sends other messages than the network was trained with") as warned:
        export_tiny(network, tmp_path / "deployment", plan=plan)
    assert len(warned) == 1
    assert deployed_plan(tmp_path / "deployment") == plan
    x_BCHW = np.random.default_rng(0).standard_normal((2, 1, 8, 8), dtype=np.float32)
    with threads(tmp_path / "deployment") as hosts, Session(tmp_path / "deployment", hosts) as session:
        answer = session.infer(x_BCHW)
    other = SeparableNetwork(fewer).eval()
    kept = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("merges.")}
    other.load_state_dict(kept, strict=False)
    np.testing.assert_allclose(answer, whole_logits(other, x_BCHW), rtol=1e-5, atol=1e-6)


def _renamed(plan: Plan) -> Plan:
    """The same work with other tags and another name of a segment."""
    text = PlanDocument.of(plan).model_dump_json().replace('"stem-block0"', '"first"')
    return PlanDocument.model_validate_json(re.sub(r'"tag":(\d+)', lambda m: f'"tag":{10 * int(m[1])}', text)).plan()


def test_a_plan_with_the_trained_messages_gives_no_warning(
    network: SeparableNetwork, recwarn: pytest.WarningsRecorder
) -> None:
    """Tags and names of segments do not matter: the accuracy that was measured holds."""
    plan = build_plan(network.architecture)
    renamed = _renamed(plan)
    assert renamed != plan
    check_fits(renamed, network)
    warn_of_other_messages(renamed, network)
    assert not recwarn.list


@pytest.mark.parametrize("change", [{"source": 0, "destination": 1}, {"wire": "fp16"}])
def test_a_plan_with_other_messages_gives_a_warning(change: dict[str, Any], network: SeparableNetwork) -> None:
    """A message that another device sends, or that has another format, is another message."""
    data = network.architecture.to_data()
    data["policy"]["points"][1]["transfers"] = [{**transfer(1, 0), **change}]
    with pytest.warns(UserWarning, match="the run's accuracy no longer holds"):
        warn_of_other_messages(build_plan(Architecture.from_data(data)), network)


def with_features(plan: Plan) -> Plan:
    """The plan that also answers with what device 0 classifies, and what device 1 computes last."""
    tags = max(message.tag for message in plan.messages()) + 1, max(message.tag for message in plan.messages()) + 2
    ports, programs = [], []
    for rank, (tag, name) in enumerate(zip(tags, ("features", "maps"), strict=True)):
        computed = [step for step in plan.programs[rank] if isinstance(step, Compute)][-1]
        [tensor] = computed.inputs if rank == 0 else computed.outputs
        shape = plan.shapes[rank][tensor]
        ports.append(Port.whole(name, shape, (rank, tag)))
        programs.append((*plan.programs[rank], Send(tensor, Region.whole(shape), "fp32", CLIENT, tag)))
    return replace(plan, programs=tuple(programs), outputs=(*plan.outputs, *ports))


def test_a_plan_may_answer_with_more_than_logits(network: SeparableNetwork, tmp_path: Path) -> None:
    """Outputs beside the logits, of both devices, are exported without a warning; the logits stay the class scores."""
    plan = with_features(build_plan(network.architecture))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        export_tiny(network, tmp_path / "deployment", plan=load_plan(save_plan(plan, tmp_path / "plan.json")))
    x_BCHW = np.random.default_rng(0).standard_normal((2, 1, 8, 8), dtype=np.float32)
    with threads(tmp_path / "deployment") as hosts, Session(tmp_path / "deployment", hosts) as session:
        answer, classes = session.ask(x_BCHW), session.classify(x_BCHW)
    assert list(answer.outputs) == ["logits", "features", "maps"]
    np.testing.assert_allclose(answer.logits, whole_logits(network, x_BCHW), rtol=1e-5, atol=1e-6)
    assert classes == [f"class {k}" for k in answer.logits.argmax(axis=1)]
    with torch.inference_mode():
        head = network.segment(0, ("head",))(torch.from_numpy(answer.outputs["features"])).numpy()
    np.testing.assert_allclose(head, answer.logits, rtol=1e-5, atol=1e-6)


def test_a_plan_may_answer_without_logits(network: SeparableNetwork, tmp_path: Path) -> None:
    """A plan that stops before the classifier is exported and asked like any other, and names no classes."""
    plan = with_features(build_plan(network.architecture))
    [logits] = plan.outputs[0].pieces
    programs = tuple(
        tuple(step for step in program if not (isinstance(step, Send) and step.tag == logits.tag))
        for program in plan.programs
    )
    headless = prune(replace(plan, programs=programs, outputs=plan.outputs[1:]))
    export_tiny(network, tmp_path / "deployment", plan=headless)
    x_BCHW = np.random.default_rng(0).standard_normal((2, 1, 8, 8), dtype=np.float32)
    with threads(tmp_path / "deployment") as hosts, Session(tmp_path / "deployment", hosts) as session:
        answer = session.ask(x_BCHW)
        with pytest.raises(DataError, match=r"names no classes; its outputs are 'features' .*, 'maps'"):
            session.classify(x_BCHW)
    assert list(answer.outputs) == ["features", "maps"]
    with torch.inference_mode():
        head = network.segment(0, ("head",))(torch.from_numpy(answer.outputs["features"])).numpy()
    np.testing.assert_allclose(head, whole_logits(network, x_BCHW), rtol=1e-5, atol=1e-6)


def _with_output(plan: Plan, **changes: Any) -> Plan:
    return replace(plan, outputs=(replace(plan.outputs[0], **changes),))


def _with_parameter(plan: Plan, name: str) -> Plan:
    programs = tuple(
        tuple(replace(step, parameter=name) if isinstance(step, Merge) and step.parameter else step for step in program)
        for program in plan.programs
    )
    return replace(plan, programs=programs)


def _other_layers(plan: Plan) -> Plan:
    segments = tuple(
        {name: replace(segment, layers=("block9",)) for name, segment in each.items()} for each in plan.segments
    )
    return replace(plan, segments=segments)


def _first_segment(change: Callable[[Segment], Segment]) -> Callable[[Plan], Plan]:
    """Change the first segment of device 0, which has the stem and the first block."""

    def changed(plan: Plan) -> Plan:
        (name, segment), *others = plan.segments[0].items()
        return replace(plan, segments=({name: change(segment), **dict(others)}, *plan.segments[1:]))

    return changed


def _region(segment: Segment) -> Segment:
    first, *others = segment.weights
    part = replace(first, region=Region(((0, 1), *first.region.ranges[1:])))
    return replace(segment, weights=(part, *others))


def _shapes(change: Callable[[Shape], Shape], tensor: str) -> Callable[[Plan], Plan]:
    """Change what device 0 is told of one tensor."""

    def changed(plan: Plan) -> Plan:
        told = {name: change(shape) if name == tensor else shape for name, shape in plan.shapes[0].items()}
        return replace(plan, shapes=(told, *plan.shapes[1:]))

    return changed


_SEGMENT = "device 0, segment 'stem-block0': "
FOREIGN: dict[str, Callable[[Plan], Plan]] = {
    "it is for 3 devices, the network for 2": lambda plan: build_plan(tiny_architecture([], "mean", depth=11)),
    "its inputs are 'picture' .CHW 1x8x8., the network's 'image'": lambda plan: replace(
        plan, inputs=(replace(plan.inputs[0], name="picture"),)
    ),
    "its output 'logits' is N 5, the network's is C 5": lambda plan: _with_output(plan, shape=Shape((5,), "N")),
    "learned weights 'nothing'": lambda plan: _with_parameter(plan, "nothing"),
    "computes the layers .*block9": _other_layers,
    _SEGMENT + "computes the layers .*block0, stem.*, which do not follow": _first_segment(
        lambda segment: replace(segment, layers=("block0", "stem"))
    ),
    _SEGMENT + "computes the layers .*stem, stem.*, which do not follow": _first_segment(
        lambda segment: replace(segment, layers=("stem", "stem"))
    ),
    _SEGMENT + "lacks the weights 'stem.layer.conv.weight', .* and 17 more": _first_segment(
        lambda segment: replace(segment, weights=())
    ),
    _SEGMENT + "lacks the weight 'stem.layer.conv.weight' of its layers": _first_segment(
        lambda segment: replace(segment, weights=segment.weights[1:])
    ),
    _SEGMENT + "takes the weight 'parts.1.0.reduce.conv.weight', which": _first_segment(
        lambda segment: replace(
            segment,
            weights=(*segment.weights, replace(segment.weights[0], name="parts.1.0.reduce.conv.weight")),
        )
    ),
    _SEGMENT + "takes the weight 'stem.layer.conv.weight' twice": _first_segment(
        lambda segment: replace(segment, weights=(*segment.weights, segment.weights[0]))
    ),
    _SEGMENT + "must take the weight 'stem.layer.conv.weight' whole": _first_segment(_region),
    _SEGMENT + "names two of its inputs and outputs .*y": _first_segment(
        lambda segment: replace(segment, inputs=("y",))
    ),
    _SEGMENT + "its layers take CHW 1x8x8, and the plan says 'x' of CHW 1x4x8": _shapes(
        lambda shape: Shape.chw(1, 4, 8), "x"
    ),
    _SEGMENT + "its layers make CHW .*x8x8, and the plan says 'b0' of CHW .*x16x4": _shapes(
        lambda shape: Shape.chw(shape.dims[0], 16, 4), "b0"
    ),
    _SEGMENT + "its layers make CHW .*, and the plan says 'b0' of HWC": _shapes(
        lambda shape: Shape(shape.dims, "HWC"), "b0"
    ),
}


@pytest.mark.parametrize("says", FOREIGN)
def test_a_plan_of_another_network_is_refused(says: str, network: SeparableNetwork, tmp_path: Path) -> None:
    """What the network does not have is named, and nothing is written."""
    plan = FOREIGN[says](build_plan(network.architecture))
    with pytest.raises(DeploymentError, match=f"the plan does not fit the network .*{says}"):
        export_tiny(network, tmp_path / "deployment", plan=plan)
    assert not (tmp_path / "deployment").exists()


@pytest.mark.parametrize("merge", ["weighted", "concat"])
def test_learned_weights_are_for_the_messages_that_they_were_trained_with(merge: str) -> None:
    """A plan whose merge takes another device's message is refused, although the weights' names and sizes fit."""

    def architecture(source: int) -> Architecture:
        point = {"after": 1, "merge": merge, "transfers": [transfer(source, 0, fraction=0.5)]}
        return tiny_architecture([point], "mean", 3, depth=11)

    network, other = lively_network(architecture(1)), build_plan(architecture(2))
    check_fits(build_plan(architecture(1)), network)
    with pytest.raises(DeploymentError, match=r"weights 'merge1', which were not trained for these messages"):
        check_fits(other, network)


@pytest.mark.parametrize(("change", "says"), [({}, "lacks the weight"), ({"more": torch.zeros(1)}, "beyond its own")])
def test_a_graph_takes_all_weights_of_its_layers(change: dict[str, Tensor], says: str) -> None:
    """A graph that contained a weight's values would be wrong for another device with equal layers."""
    layer = nn.Linear(2, 3)
    weights = {"weight": layer.weight.detach(), **(change and {"bias": layer.bias.detach()}), **change}
    with pytest.raises(DeploymentError, match=says):
        SegmentExporter().export(layer, {"x": Shape.vector(2)}, ("y",), weights)
