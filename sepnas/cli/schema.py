"""``sepnas schema``: the JSON Schema of every file that sepnas reads or writes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any

import typer

from sepnas.console import print_json
from sepnas.errors import SpecError
from sepnas.spec.document import Document

DOCUMENTS = {
    "architecture": "sepnas.separable.architecture:Architecture",
    "classifier-evaluations": "sepnas.spec.evaluation:EvaluationFile",
    "cluster": "sepnas.spec.cluster:Cluster",
    "data": "sepnas.spec.dataset:DataFacts",
    "emulation": "sepnas.spec.emulation:Emulation",
    "evaluation": "sepnas.train.evaluation:Evaluation",
    "exploration-front": "sepnas.exploration.folder:SeparationFront",
    "exploration-run": "sepnas.exploration.folder:ExplorationRun",
    "front": "sepnas.search.folder:SearchFront",
    "graph": "sepnas.partition.graph:Graph",
    "hosts": "sepnas.spec.hosts:Hosts",
    "machines": "sepnas.search.trials.machines:Machines",
    "manifest": "sepnas.deployment.manifest:Manifest",
    "plan": "sepnas.plan.document:PlanDocument",
    "policy": "sepnas.separable.policy:TransmissionPolicy",
    "presets": "sepnas.spec.presets:Presets",
    "recipe": "sepnas.train.recipe:Recipe",
    "renewal": "sepnas.deployment.renewal:Renewal",
    "search-run": "sepnas.search.folder:SearchRun",
    "search-space": "sepnas.separable.space:SearchSpace",
    "separation": "sepnas.separation.document:Separation",
    "shard-manifest": "sepnas.deployment.manifest:ShardManifest",
    "trace": "sepnas.runtime.client.trace:Trace",
    "trial-kit": "sepnas.search.trials.kit:Kit",
}
"""The class of each document, imported on demand."""


SCHEMAS = {**DOCUMENTS, "result": "sepnas.spec.result:ResultFile"}
"""All files that have a schema; result files are not documents, because their head differs."""


def schema(name: Annotated[str, typer.Argument(help=f"One of: {', '.join(sorted(SCHEMAS))}.")]) -> None:
    """Print the JSON Schema of a file that sepnas reads or writes.

    The schema also applies to YAML. Editors use it to complete and check a file.

    Example: `sepnas schema cluster > cluster.schema.json`
    """
    print_json(_class_of(name, SCHEMAS).model_json_schema())


def document(name: str) -> type[Document]:
    """The class of a document; raises :class:`SpecError`, which lists the known names."""
    found: type[Document] = _class_of(name, DOCUMENTS)
    return found


def _class_of(name: str, places: Mapping[str, str]) -> Any:
    if name not in places:
        raise SpecError(f"unknown document {name!r}; allowed: {', '.join(sorted(places))}")
    module, _, kind = places[name].partition(":")
    return getattr(import_module(module), kind)
