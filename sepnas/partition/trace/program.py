"""Any ``nn.Module`` that ``torch.export`` takes, as a graph and its weights.

The program is traced for one sample and made functional; operators stay as high as ATen has them (``conv2d``,
``linear``, ``scaled_dot_product_attention``). What does not depend on the input is computed now and becomes a weight.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from typing import Any, TypeAlias

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.export import ExportedProgram

from sepnas.errors import ImportFailedError
from sepnas.partition.graph import Graph, NetworkTraits
from sepnas.partition.trace.builder import SPLITS, GraphBuilder
from sepnas.partition.trace.refusals import why_not_exported
from sepnas.plan.kinds.registry import BY_OVERLOAD, IDENTITIES
from sepnas.spec.document import explain

Weights: TypeAlias = dict[str, Tensor]
NO_TRAITS = NetworkTraits()
_RECURRENT = frozenset(f"aten.{name}.input" for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"))
"""Operators that would be taken apart into several ones for each step of time: they are kept whole."""
_KNOWN = BY_OVERLOAD.keys() | IDENTITIES | SPLITS


def trace(
    module: nn.Module, inputs: Sequence[Tensor], *, name: str, source: str, traits: NetworkTraits = NO_TRAITS
) -> tuple[Graph, Weights]:
    """The graph of a module in evaluation, and its weights by name.

    ``inputs`` are examples with a batch of one, on the module's device. Raises :class:`ImportFailedError` if torch
    cannot export the module (control flow that depends on values, dynamic shapes), and names the line.
    """
    module.eval()
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(module, tuple(inputs), strict=False)
    except (Exception, SystemExit) as error:  # torch and the module's code raise whatever they like
        raise ImportFailedError(f"{source}: {why_not_exported(error)}") from error
    return graph_of(program, name=name, source=source, traits=traits)


def graph_of(
    program: ExportedProgram, *, name: str, source: str, traits: NetworkTraits = NO_TRAITS
) -> tuple[Graph, Weights]:
    """The graph of an exported program, and its weights by name. Raises as :func:`trace`."""
    try:
        with torch.no_grad(), _quiet():
            builder = GraphBuilder(_functional(program))
            builder.add_all()
        return builder.graph(name=name, source=source, traits=traits), builder.stored_weights()
    except ImportFailedError as error:
        raise ImportFailedError(f"{source}: {error}") from None
    except ValidationError as error:
        what = explain(Graph, error, source, {})
        raise ImportFailedError(f"{what}; the graph is beyond the bounds of a file") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's warnings, and what it prints of a graph that it gave up, from the terminal: errors say enough."""
    logs = [
        logging.getLogger(f"torch.{name}") for name in ("fx.experimental.symbolic_shapes", "_subclasses.fake_tensor")
    ]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _functional(program: ExportedProgram) -> ExportedProgram:
    """The program without writes in place; operators that no kind has are taken apart where torch knows how."""
    functional: ExportedProgram = program.run_decompositions({})
    table = torch.export.default_decompositions()
    apart: dict[Any, Any] = {}
    for target in _unknown(functional):
        with suppress(KeyError):
            apart[target] = table[target]
    if apart:  # a trace more, which takes as long as the first
        functional = functional.run_decompositions(apart)
    return functional


def _unknown(program: ExportedProgram) -> set[Any]:
    """The operators on the way from the inputs for which there is no kind."""
    from_input = set(program.graph_signature.user_inputs)
    found = set()
    for node in program.graph.nodes:
        if not from_input.isdisjoint(each.name for each in node.all_input_nodes):
            from_input.add(node.name)
            known = str(node.target).removeprefix("aten.") in _KNOWN or str(node.target) in _RECURRENT
            if isinstance(node.target, torch._ops.OpOverload) and not known:
                found.add(node.target)
    return found
