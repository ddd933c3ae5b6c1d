"""The networks of the table as anyone has them: imported from torchvision and timm, with random weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sepnas import api
from sepnas.partition.graph import is_graph, load_graph
from sepnas.partition.schemes.registry import on_one_device
from sepnas.plan.operators import Operator
from sepnas.plan.plan import Plan

FITTED = {
    "mobilenet_v2": ("torchvision:mobilenet_v2", 224),
    "efficientnet_b0": ("torchvision:efficientnet_b0", 224),
    "resnet18": ("torchvision:resnet18", 224),
    "resnet50": ("torchvision:resnet50", 224),
    "alexnet": ("torchvision:alexnet", 227),
    "vgg16": ("torchvision:vgg16", 224),
    "squeezenet": ("torchvision:squeezenet1_1", 227),
    "mobilenet": ("timm:mobilenetv1_100", 224),
}
"""ncnn's name: the network, and the side of its input there. The rates of the presets are fitted to these."""
UNSEEN = {
    "mobilenet_v3": ("torchvision:mobilenet_v3_large", 224),
    "mnasnet": ("torchvision:mnasnet1_0", 224),
    "googlenet": ("torchvision:googlenet", 224),
    "regnety_400m": ("torchvision:regnet_y_400mf", 224),
    "efficientnetv2_b0": ("timm:tf_efficientnetv2_b0", 224),
    "shufflenet_v2": ("torchvision:shufflenet_v2_x1_0", 224),
}
"""The others of the same table that torchvision or timm have: no rate was fitted to them."""


def whole_plans(names: Iterable[str], folder: Path) -> dict[str, Plan]:
    """The plan of each network on one device; a network that is not in ``folder`` is imported into it."""
    return {name: _whole_plan(name, folder / name) for name in names}


def _whole_plan(name: str, folder: Path) -> Plan:
    if not is_graph(str(folder)):
        source, side = {**FITTED, **UNSEEN}[name]
        api.import_network(source, folder, input_shapes=[(3, side, side)], force=True)
        (folder / "weights.safetensors").unlink()  # prices need the graph alone
    return on_one_device(load_graph(folder), 0, 1)


def operators_of(plan: Plan) -> list[Operator]:
    """The operators of a plan for one device, in the order of execution."""
    return [each for segment in plan.segments[0].values() for each in segment.operators]
