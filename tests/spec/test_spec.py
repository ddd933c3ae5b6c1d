"""Descriptions: what is read is what was written, and every mistake is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sepnas.errors import PlanError, SpecError, StorageError, VersionError
from sepnas.plan.wire import WIRE_FORMATS, payload_bytes
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.separable.patterns import pattern_pairs
from sepnas.separable.policy import TransmissionPolicy
from sepnas.spec.cluster import Cluster, uniform_cluster
from sepnas.spec.document import MAX_FILE_BYTES, write_text
from tests.strategies import architectures, clusters

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(architecture=architectures(), suffix=st.sampled_from([".json", ".yaml"]))
def test_architecture_round_trip(architecture: Architecture, suffix: str, tmp_path: Path) -> None:
    """An architecture that is written and read again is the same, in JSON and in YAML."""
    path = architecture.save(tmp_path / f"a{suffix}")
    assert Architecture.load(path) == architecture


@QUICK
@given(data=st.data(), num_devices=st.integers(1, 4))
def test_cluster_round_trip(data: st.DataObject, num_devices: int, tmp_path: Path) -> None:
    """A cluster that is written and read again is the same."""
    cluster = data.draw(clusters(num_devices))
    assert Cluster.load(cluster.save(tmp_path / "c.yaml")) == cluster


def test_unknown_key_names_its_place_and_the_allowed_keys(tmp_path: Path) -> None:
    """An unknown key is refused with the file, its place and the keys that stand there."""
    data = uniform_cluster(2).to_data()
    data["devices"][1]["speed"] = 3
    path = write_text(tmp_path / "c.yaml", __import__("yaml").safe_dump(data))
    with pytest.raises(SpecError, match=r"c\.yaml: field `devices\.1\.speed`: unknown key; allowed: name, flops_per_s"):
        Cluster.load(path)


def test_wrong_type_names_its_place_and_value() -> None:
    """A value of the wrong type is refused with its place and the value."""
    data = uniform_cluster(2).to_data()
    data["devices"][0]["flops_per_s"] = "fast"
    with pytest.raises(SpecError, match=r"field `devices\.0\.flops_per_s`: .*number.*'fast'"):
        Cluster.from_data(data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"between": 5}, "`links.0.between`: must be 'all' or a list, got 5"),
        ({"between": ["device0"]}, "`links.0.between.1`: is missing"),
        ({"between": ["device0", 3]}, "`links.0.between.1`: must be text, got 3"),
        ({"latency_s": -1}, "`links.0.latency_s`: must be at least 0, got -1"),
    ],
)
def test_one_mistake_is_one_line(change: dict, said: str) -> None:
    """A mistake inside of a list or of a field of several types gives one line, at its own place."""
    data = uniform_cluster(2).to_data()
    data["links"][0] |= change
    with pytest.raises(SpecError) as caught:
        Cluster.from_data(data, "c.yaml")
    assert str(caught.value) == f"c.yaml: field {said}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"devices": []}, "`devices`: must have at least 1 item, got []"),
        ({"devices": "none"}, "`devices`: must be a list, got 'none'"),
        ({"devices": [3]}, "`devices.0`: must be a mapping of fields, got 3"),
        ({"name": 5}, "`name`: must be text, got 5"),
        ({"memory_bytes": "1GB"}, "`devices.0.memory_bytes`: must be a whole number, got '1GB'"),
        ({"memory_bytes": 1.5}, "`devices.0.memory_bytes`: must be a whole number, got 1.5"),
        ({"flops_per_s": float("nan")}, "`devices.0.flops_per_s`: must be a finite number, got nan"),
        ({"power": {"idle_w": True}}, "`devices.0.power.idle_w`: must be a number, got True"),
    ],
)
def test_mistakes_are_told_in_the_words_of_the_file(change: dict, said: str) -> None:
    """What a field must be is said in words of the file and its values, none of them Python's."""
    data = uniform_cluster(2).to_data()
    if next(iter(change)) in data:
        data |= change
    else:
        data["devices"][0] |= change
    with pytest.raises(SpecError) as caught:
        Cluster.from_data(data, "c.yaml")
    assert str(caught.value) == f"c.yaml: field {said}"


def test_every_mistake_has_its_line() -> None:
    """Two mistakes give two lines, and the list that holds them is not blamed."""
    with pytest.raises(SpecError) as caught:
        named_architecture("resnext20_0x0d")
    places = ("cardinality", "bottleneck_width")
    lines = [f"resnext20_0x0d: field `parts.0.{name}`: must be greater than 0, got 0" for name in places]
    assert str(caught.value).splitlines() == lines


@pytest.mark.parametrize(
    "change", [{"source": "0"}, {"source": False}, {"fraction": "0.5"}, {"fraction": True}, {"lag": True}, {"lag": "1"}]
)
def test_nothing_is_taken_for_a_number(change: dict) -> None:
    """Text and booleans are refused where a number stands, whole numbers pass for fractions."""
    transfer = {"source": 0, "destination": 1, "fraction": 1, "lag": 1}
    assert TransmissionPolicy.from_data({"points": [{"after": 0, "transfers": [transfer]}]})
    with pytest.raises(
        SpecError, match=rf"`points\.0\.transfers\.0\.{next(iter(change))}`: must be a (whole )?number, got"
    ):
        TransmissionPolicy.from_data({"points": [{"after": 0, "transfers": [transfer | change]}]})


def test_exponents_are_numbers_in_yaml(tmp_path: Path) -> None:
    """5e9 is a number in YAML as it is in JSON, and a name that looks like one stays a name."""
    cluster = uniform_cluster(1, flops_per_s=5e9, name="5e9")
    path = cluster.save(tmp_path / "c.yaml")
    assert Cluster.load(write_text(path, path.read_text().replace("5000000000.0", "5e9"))) == cluster


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan")])
def test_bandwidth_must_be_positive(value: float) -> None:
    """A bandwidth that is not a positive, finite number is refused."""
    data = uniform_cluster(2).to_data()
    data["links"][0]["bandwidth_bytes_per_s"] = value
    with pytest.raises(SpecError, match=r"links\.0\.bandwidth_bytes_per_s"):
        Cluster.from_data(data)


@pytest.mark.parametrize("document", [Architecture, Cluster, TransmissionPolicy])
def test_newer_version_is_refused(document: type, tmp_path: Path) -> None:
    """A file of a newer version is refused by name of its format and version."""
    path = write_text(tmp_path / "x.json", '{"version": 2}')
    with pytest.raises(VersionError, match=rf"x\.json: field `version`: .*{document.format_name}.* got 2"):
        document.load(path)


def test_other_format_is_refused() -> None:
    """A policy is not taken for a cluster."""
    with pytest.raises(SpecError, match=r"field `format`: expected 'sepnas\.cluster', got 'sepnas\.policy'"):
        Cluster.from_data(TransmissionPolicy().to_data())


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid JSON"), ("[1]", "is a mapping of fields"), ("", "not valid JSON"), ("\x00", "not valid JSON")],
)
def test_broken_file(text: str, message: str, tmp_path: Path) -> None:
    """A file that is no document is refused with its name."""
    path = write_text(tmp_path / "broken.json", text)
    with pytest.raises(SpecError, match=rf"broken\.json: .*{message}"):
        Architecture.load(path)


MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1}, ' * 9}]}}\n" for n in range(1, 30))
"""Each mapping has the keys of the one before nine times."""


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("deep.json", "[" * 100_000, "nested too deeply"),
        ("deep.yaml", "[" * 2_000, "(nested too deeply|nesting depth)"),
        ("digits.json", "1" * 5_000, "not valid JSON"),
        ("date.yaml", "2024-13-45", "not valid YAML: month must be"),
        ("tag.yaml", "!!int ''", "not valid YAML"),
        ("digits.yaml", "version: 0x" + "f" * 5_000, "not valid YAML: .* digits"),
        ("half.json", '{"devices": ["\\ud800"]}', "not valid JSON: .*surrogates"),
        ("half.yaml", 'devices: ["\\U0000D800"]', "not valid YAML: .*surrogates"),
        ("merges.yaml", MERGES, "not valid YAML: merges too many keys"),
        ("large.yaml", "#" * (MAX_FILE_BYTES + 1), "larger than 64 MiB"),
    ],
)
def test_absurd_file(name: str, text: str, message: str, tmp_path: Path) -> None:
    """A file that the parsers choke on is refused with its name."""
    (tmp_path / name).write_text(text)
    with pytest.raises(SpecError, match=rf"{name}: .*{message}"):
        Cluster.load(tmp_path / name)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    """A file that an editor began with a byte order mark is read as the same file."""
    text = uniform_cluster(2).dumps()
    (tmp_path / "c.json").write_text(text, encoding="utf-8-sig")
    assert Cluster.load(tmp_path / "c.json") == uniform_cluster(2)


def test_a_pair_of_surrogates_is_one_character(tmp_path: Path) -> None:
    """JSON writes what lies beyond 16 bits as two halves; such a text is read as it was."""
    cluster = uniform_cluster(1)
    named = cluster.model_copy(update={"devices": (cluster.devices[0].model_copy(update={"name": "\U0001f600"}),)})
    assert "\\ud83d\\ude00" in named.save(tmp_path / "c.json").read_text()
    assert Cluster.load(tmp_path / "c.json") == named


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(SpecError, match=r"nowhere\.yaml: no such file"):
        Cluster.load(tmp_path / "nowhere.yaml")


def test_cardinality_must_be_divisible() -> None:
    """Devices that do not divide the cardinality are refused with both numbers."""
    with pytest.raises(SpecError, match=r"`cardinality` \(=4\) must be divisible by `num_devices` \(=3\)"):
        named_architecture("resnext56_4x16d", 3)


@pytest.mark.parametrize("name", ["resnet56", "resnext56", "resnext10_4x4d", "resnext56_4x", ""])
def test_unknown_architecture_name(name: str) -> None:
    """A name outside the family is refused."""
    with pytest.raises(SpecError):
        named_architecture(name)


def test_policy_outside_the_cluster() -> None:
    """A policy that names a device that is not there is refused with point and transfer."""
    policy = TransmissionPolicy.from_data({"points": [{"after": 0, "transfers": [{"source": 0, "destination": 7}]}]})
    with pytest.raises(SpecError, match=r"`points\.0`\.transfers\.0\.destination is 7, but the ranks are 0\.\.3"):
        named_architecture("resnext56_4x16d", 4, policy)


def test_lag_1_needs_a_next_block_of_the_same_shape() -> None:
    """Lag 1 after the last block of a stage is refused."""
    transfer = {"source": 0, "destination": 1, "lag": 1}
    policy = TransmissionPolicy.from_data({"points": [{"after": 5, "transfers": [transfer]}]})
    with pytest.raises(SpecError, match=r"block 5 is the last of its stage"):
        named_architecture("resnext56_4x16d", 4, policy)


def test_a_device_does_not_send_to_itself() -> None:
    """A transfer from a device to itself is refused."""
    with pytest.raises(SpecError, match="must differ, both are 2"):
        TransmissionPolicy.from_data({"points": [{"after": 0, "transfers": [{"source": 2, "destination": 2}]}]})


def test_missing_link_names_both_devices() -> None:
    """A pair without a link is named when a message needs it, with a line that gives it one and all such pairs."""
    data = uniform_cluster(3).to_data() | {"links": []}
    data["links"] = [{"between": ["device0", "device1"], "bandwidth_bytes_per_s": 1e6}]
    cluster = Cluster.from_data(data)
    assert cluster.link(1, 0).bandwidth_bytes_per_s == 1e6
    with pytest.raises(PlanError, match="no link between device0 and device2") as caught:
        cluster.link(0, 2)
    assert str(caught.value).endswith("(device0-device2, device1-device2)")
    [line] = re.findall(r"write one in `links`: `- (.*?)`", str(caught.value))
    links = [*data["links"], yaml.safe_load(line)]
    assert Cluster.from_data(data | {"links": links}).missing_links() == [("device1", "device2")]
    assert cluster.missing_links(2) == uniform_cluster(3).missing_links() == []


def test_hand_made_policy_is_the_papers() -> None:
    """Depth 56 over 4 devices: nine exchanges, shifts 1, 2, 3 in turn, lag 1, whole fp32 outputs."""
    policy = named_architecture("resnext56_4x16d", 4, "hand-made").policy
    assert [point.after for point in policy.points] == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    shifts = [(p.transfers[0].destination - p.transfers[0].source) % 4 for p in policy.points]
    assert shifts == [1, 2, 3] * 3
    transfers = [t for p in policy.points for t in p.transfers]
    assert {(t.fraction, t.wire, t.lag) for t in transfers} == {(1.0, "fp32", 1)}
    assert policy.readout.kind == "device"


def test_patterns() -> None:
    """Each pattern's short name gives the pairs that it says."""
    assert pattern_pairs("ring:1", 3) == ((0, 1), (1, 2), (2, 0))
    assert pattern_pairs("swap:1", 3) == ((0, 1), (1, 0))
    assert pattern_pairs("star:1", 3) == ((0, 1), (2, 1))
    assert pattern_pairs("permutation:102", 3) == pattern_pairs("permutation:1,0,2", 3) == ((0, 1), (1, 0))
    assert len(pattern_pairs("all-to-all", 4)) == 12
    assert pattern_pairs("none", 4) == ()


@pytest.mark.parametrize(
    "text",
    [
        *("ring:0", "ring:3", "ring", "ring:²", "star:3", "mesh"),
        *("permutation", "permutation:0123", "permutation:110", "permutation:1x2y0", "permutation:1,2,0,"),
    ],
)
def test_bad_pattern(text: str) -> None:
    """A pattern that does not exist for three devices is refused."""
    with pytest.raises(SpecError):
        pattern_pairs(text, 3)


@given(st.integers(1, 4000), st.integers(1, 8))
def test_wire_formats_shrink(num_values: int, batch: int) -> None:
    """fp16 is half of fp32; int8 and int4 are a quarter and an eighth, and eight bytes a sample."""
    sizes = {wire: payload_bytes(num_values, wire, batch) for wire in WIRE_FORMATS}
    assert sizes["fp32"] == 2 * sizes["fp16"] == 4 * num_values * batch
    assert sizes["int8"] == (num_values + 8) * batch
    assert sizes["int4"] == ((num_values + 1) // 2 + 8) * batch


def test_nothing_half_written(tmp_path: Path) -> None:
    """When a file cannot be written, the old one stands as it was and nothing lies beside it."""
    target = write_text(tmp_path / "a.json", "old")
    blocked = tmp_path / "a.json" / "b.json"
    with pytest.raises(StorageError, match=r"b\.json"):
        write_text(blocked, "new")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(StorageError, match="is a folder; name the file to write"):
        write_text(tmp_path, "new")


def test_a_figure_is_not_so_small_that_its_reciprocal_is_infinite(tmp_path: Path) -> None:
    """Speeds whose times a float cannot hold are refused by name."""
    data = uniform_cluster(2).to_data()
    data["devices"][1]["flops_per_s"] = 5e-324
    path = write_text(tmp_path / "c.yaml", yaml.safe_dump(data))
    with pytest.raises(SpecError, match=r"c\.yaml: field `devices\.1\.flops_per_s`: must be at least 1e-18, got 4\.9"):
        Cluster.load(path)
