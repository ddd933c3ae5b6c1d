"""Files of a few lines that come to millions of values, and numbers beyond all sense: refused at once, in few words."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sepnas.deployment.manifest import ShardManifest
from sepnas.errors import SpecError
from sepnas.plan.data import ShapeData
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.separable.policy import TransmissionPolicy
from sepnas.spec.cluster import Cluster
from sepnas.spec.document import MAX_PROBLEMS, Document
from sepnas.spec.hosts import Hosts

HEAD = "format: sepnas.{}\nversion: 1\n"
ALIASES = (
    HEAD.format("policy")
    + "points:\n- {after: 0, transfers: &p [&t {source: 0, destination: 1}, "
    + ", ".join(["*t"] * 1500)
    + "]}\n"
    + "- {after: 1, transfers: *p}\n" * 1500
)
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 20))
HOSTS = HEAD.format("hosts") + "devices:\n" + "".join(f"- {{rank: {k}, address: 'a:{k}'}}\n" for k in range(1, 20_001))
FILES: dict[str, tuple[type[Document], str, str]] = {
    "alias-policy.yaml": (TransmissionPolicy, ALIASES, "repeats too many values: more than 100,000"),
    "bomb.yaml": (Cluster, BOMB, "repeats too many values"),
    "half.yaml": (Cluster, BOMB + 'z: "\\ud800"\n', "repeats too many values"),
    "many-hosts.yaml": (Hosts, HOSTS, "too many values: more than 5,000"),
    "self.yaml": (Cluster, "devices: &a [*a]\n", "line 1: alias 'a' before its anchor"),
    "wide.json": (Cluster, "[" + "[]," * 4_000_000 + "[]]", "more than 4,000,000 values"),
    "wrong.json": (ShardManifest, json.dumps({"plans": [1] * 1_000_000}), "`plans`: has 1,000,000 items"),
    "keys.json": (ShardManifest, json.dumps({"segments": dict.fromkeys(map(str, range(30_000)))}), "30,000 keys"),
    "name.json": (Cluster, json.dumps({"k" * 1_000_000: 1}), "unknown key"),
    "wide.yaml": (Cluster, "".join(f"k{k}: 1\n" for k in range(400_000)), "a mapping of more than 20,000 keys"),
    "pair.yaml": (Cluster, "name: a\ndevices: []\nname: b\n", "line 3: key 'name' is already in line 1"),
    "pair-below.yaml": (Cluster, "devices: [{name: a, name: a}]\n", "line 1: key 'name' is already in line 1"),
    "pair.json": (Cluster, '{"devices": [{"name": "a", "name": "b"}]}', "key 'name' occurs twice in one object"),
    "last-pair.json": (
        Cluster,
        "{" + "".join(f'"k{k}": 0, ' for k in range(300_000)) + '"k299999": 1}',
        "key 'k299999' occurs twice",
    ),
    "whole-60.yaml": (Cluster, "name: " + ":".join(["59"] * 300_000) + "\n", "line 1: a number of 899,999 characters"),
    "part-60.yaml": (Cluster, "name: " + ":".join(["59"] * 300) + ".5\n", "too large to convert to float"),
    "nan.json": (Cluster, '{"devices": NaN}', "field `devices`: "),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_comes_to_too_much_is_refused(name: str, tmp_path: Path):
    """Aliases, lists, keys and names without end, keys that stand twice: one short message with the file's name."""
    kind, text, says = FILES[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(SpecError, match=rf"{name}: .*{says}") as caught:
        kind.load(tmp_path / name)
    assert len(str(caught.value)) < 8_000


def test_refusing_takes_little_memory(tmp_path: Path):
    """All those files are refused by a process that may not have more than 700 MB of memory."""
    for name, (_, text, _) in FILES.items():
        (tmp_path / name).write_text(text)
    code = (
        "import resource, sys; from tests.spec.test_bounds import FILES, SpecError, Path\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (700 << 20, 700 << 20))\n"
        "for name, (kind, _, _) in FILES.items():\n"
        "    try: kind.load(Path(sys.argv[1], name))\n"
        "    except SpecError: print(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.split() == [*FILES], done.stderr


PART = {"bottleneck_width": 2}
NUMBERS: dict[str, tuple[type[Document], dict[str, Any]]] = {
    "`depth`: must be at most": (Architecture, {"depth": 9_000_002, "parts": [PART]}),
    "`parts`: must have at most 64 items": (Architecture, {"depth": 11, "parts": [PART] * 20_000}),
    "`image_size`: must be at most": (Architecture, {"depth": 11, "parts": [PART], "image_size": 1 << 40}),
    "`parts.0`: .*channels; at most": (Architecture, {"depth": 11, "parts": [{**PART, "cardinality": 60_000}]}),
    "`points.0.transfers`: must have at most 4032 items": (
        TransmissionPolicy,
        {"points": [{"after": 0, "transfers": [{"source": k % 60, "destination": 61} for k in range(30_000)]}]},
    ),
    "`points.0.after`": (TransmissionPolicy, {"points": [{"after": 10**12}]}),
    "`devices.0.flops_per_s`: must be at most": (
        Cluster,
        {"devices": [{"name": "a", "flops_per_s": 1e300, "memory_bytes": 1}]},
    ),
    "`devices.0.memory_bytes`: must be at most": (
        Cluster,
        {"devices": [{"name": "a", "flops_per_s": 1.0, "memory_bytes": 1 << 90}]},
    ),
}


@pytest.mark.parametrize("says", NUMBERS)
def test_numbers_have_upper_bounds(says: str):
    """A number beyond what any network, cluster or policy has is refused with its field and the bound."""
    kind, data = NUMBERS[says]
    with pytest.raises(SpecError, match=says):
        kind.from_data(data)


def test_every_number_and_list_of_every_document_is_bounded():
    """What a field does not bound itself has the bounds that all have."""
    from tests.spec.test_documents import ALL

    for kind in ALL:
        unbounded = [place for place, node in _nodes(kind.__pydantic_core_schema__) if not _is_bounded(node)]
        assert not unbounded, (kind, unbounded)


def _nodes(schema: Any, place: str = "", seen: tuple[int, ...] = ()):
    if isinstance(schema, dict):
        yield place, schema
        for key, inner in schema.items():
            if key not in ("serialization", "metadata", "cls"):
                yield from _nodes(inner, f"{place}.{key}")
    elif isinstance(schema, list):
        for inner in schema:
            yield from _nodes(inner, place)


def _is_bounded(node: dict[str, Any]) -> bool:
    if node.get("type") in ("int", "float"):
        return bool(node.keys() & {"le", "lt"})
    return node.get("type") not in ("list", "tuple", "dict", "str") or "max_length" in node or "pattern" in node


def test_a_name_of_a_huge_network_is_refused_before_anything_is_made():
    """A depth of six digits makes no policy of a million transfers first."""
    with pytest.raises(SpecError, match="at most depth 1100 and 64 devices"):
        named_architecture("resnext999992_4x4d")
    with pytest.raises(SpecError, match="at most depth"):
        named_architecture("resnext11_100000x4d", 100_000)


def test_a_tensor_s_shape_has_a_size():
    """Sizes that are each in bounds do not multiply to more than a device computes."""
    with pytest.raises(ValueError, match="a tensor has at most"):
        ShapeData(axes="CHW", dims=(1 << 16, 1 << 10, 1 << 10))


def test_of_many_mistakes_the_first_are_told():
    """A cluster with a mistake in every field of 64 devices: some dozens of lines, and the number of the others."""
    data = {"devices": [{"name": 3, "flops_per_s": "x", "memory_bytes": -1, "speed": 1}] * 64}
    with pytest.raises(SpecError) as caught:
        Cluster.from_data(data, "c.yaml")
    *lines, last = str(caught.value).splitlines()
    assert len(lines) == MAX_PROBLEMS
    assert lines[0].startswith("c.yaml: field `devices.0.name`: must be text, got 3")
    assert re.fullmatch(rf"c\.yaml: and {4 * 64 - MAX_PROBLEMS} more", last)
