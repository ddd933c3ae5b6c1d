"""A trained network as it is under the plans of a deployment: each with statistics and scales of its own.

Batch-norm statistics depend on what is merged into a block's input, so each plan has its own, measured on training
images. Message scales that the network was not trained with are calibrated on the same images. Weights are never made
up: a plan that needs a classifier or a merge that was not trained is refused.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sepnas.deploy.int8 import Int8Calibration
from sepnas.deploy.plan_fit import check_fits
from sepnas.deploy.plan_module import PlanModule
from sepnas.deploy.shard_writer import NamedPlan
from sepnas.errors import DeploymentError, SpecError
from sepnas.nets.scales import calibrate_scales
from sepnas.nets.separable import of_channels
from sepnas.nets.statistics import recalibrate
from sepnas.plan.plan import Plan
from sepnas.plan.steps import Compute
from sepnas.separable.build import build_plan
from sepnas.separable.policy import TransmissionPolicy
from sepnas.spec.memory import images_at_once

if TYPE_CHECKING:
    from sepnas.nets.separable import SeparableNetwork

_BATCH = 128
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def named_plan(
    network: SeparableNetwork,
    name: str,
    given: Plan | TransmissionPolicy,
    images_NCHW: Tensor | None,
    calibration_NCHW: Tensor | None = None,
) -> NamedPlan:
    """The network under a plan or policy, called ``name``.

    Args:
        network: the trained network, which is not changed.
        images_NCHW: normalised training images, ``(N, C, H, W)``; needed unless the plan is the network's own.
        calibration_NCHW: those for quantised engines, if any.

    Raises :class:`DeploymentError` for a plan that needs what was not trained, :class:`SpecError` for a policy that
    does not fit the network, or if there are no images.
    """
    own, trained = network, build_plan(network.architecture)
    if isinstance(given, TransmissionPolicy):
        own = _under_policy(network, name, given)
        plan = build_plan(own.architecture)
    else:
        plan = given
        check_fits(plan, network)
    if plan != trained:
        if images_NCHW is None or not len(images_NCHW):
            raise SpecError(f"export: plan '{name}' needs training images that measure its batch-norm statistics")
        own = deepcopy(own) if own is network else own
        _calibrate(own, network, images_NCHW)
        measure_statistics(own, plan, images_NCHW)
    calibration = None if calibration_NCHW is None else Int8Calibration(own, plan, calibration_NCHW)
    return NamedPlan(name, plan, own, calibration)


def measure_statistics(network: SeparableNetwork, plan: Plan, images_NCHW: Tensor) -> None:
    """Measure the batch-norm statistics of the layers that the plan computes, and leave the network evaluating."""
    layers = [
        module
        for rank, program in enumerate(plan.programs)
        for step in program
        if isinstance(step, Compute)
        for module in network.segment(rank, plan.segments[rank][step.segment].layers).modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    batches = torch.split(images_NCHW, images_at_once(_BATCH, images_NCHW.shape[-1]))
    recalibrate(layers, batches, PlanModule(plan, network))
    network.eval()


def _under_policy(network: SeparableNetwork, name: str, policy: TransmissionPolicy) -> SeparableNetwork:
    """The network with another policy and the same weights."""
    architecture = network.architecture.with_policy(policy)
    own = type(network)(architecture).to(next(network.parameters()).device).eval()
    wanted, found = own.state_dict(), network.state_dict()
    for each, weight in wanted.items():
        if each in found and found[each].numel() >= weight.numel():
            wanted[each] = of_channels(found[each], weight)
        elif not each.startswith("log_scales."):
            raise DeploymentError(
                f"plan '{name}' does not fit the trained network: it needs {_untrained_text(each, each in found)}"
            )
    own.load_state_dict(wanted)
    return own


def _untrained_text(weight: str, in_part: bool) -> str:
    """What lacks a weight, or has it for fewer channels, and what can be done."""
    kind, _, rest = weight.partition(".")
    if kind == "heads":
        return (
            f"the classifier of device {rest.partition('.')[0]}, which was not trained; take a policy whose `readout` "
            "is the run's own, or train one that reads out the mean of all devices"
        )
    if kind == "merges":
        return (
            f"the learned merge weight '{rest}', which was not trained{' for as many channels' if in_part else ''}; "
            f"take a policy that {'sends fewer, or ' if in_part else ''}merges by the mean, or train this one"
        )
    return f"'{weight}', which was not trained"


def _calibrate(own: SeparableNetwork, trained: SeparableNetwork, images_NCHW: Tensor) -> None:
    """Set the message scales that were not trained, with the statistics of the trained network."""
    new = [name for name in own.log_scales if name not in trained.log_scales]
    if new:
        calibrate_scales(own, images_NCHW[: images_at_once(_BATCH, images_NCHW.shape[-1])], new)
