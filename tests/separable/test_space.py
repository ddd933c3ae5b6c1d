"""Search spaces: what a file may say, and that every genotype means a policy that fits."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from dataclasses import astuple, dataclass, replace
from itertools import product
from math import floor, log2
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepnas.cost.simulator import simulate
from sepnas.errors import SpecError
from sepnas.plan.plan import Plan
from sepnas.plan.shapes import Shape
from sepnas.plan.steps import Compute, Merge, Recv, Send, Step
from sepnas.search.canonical import plan_key
from sepnas.separable.architecture import Architecture, named_policy
from sepnas.separable.build import build_plan
from sepnas.separable.layers import device_layers
from sepnas.separable.patterns import pattern_pairs
from sepnas.separable.space import SearchSpace
from sepnas.separable.space_parts import PolicySpace
from sepnas.spec.cluster import uniform_cluster
from tests.kept import forget_all

FOLDER = Path(__file__).parents[2] / "search_spaces"
FILES = sorted(FOLDER.glob("*.yaml"))

SMALL: dict[str, Any] = {
    "network": {
        "depth": 20,
        "image_size": 8,
        "in_channels": 1,
        "num_classes": 10,
        "stem_channels": 4,
        "num_devices": 3,
        "cardinality": 3,
        "bottleneck_width": 2,
        "output_channels": 8,
    },
    "policy": {
        "patterns": ["none", "ring:1", "ring:2", "star:0", "permutations", "all-to-all"],
        "fractions": [0.3, 1],
        "wires": ["fp32", "int4"],
        "lags": [0, 1],
        "merges": ["mean", "weighted"],
        "readouts": ["device:0", "device:2", "mean"],
    },
}
SPACE = SearchSpace.from_data(SMALL)
WIDE = SearchSpace.from_data(
    {
        **SMALL,
        "policy": {**SMALL["policy"], "merges": ["mean", "weighted", "concat"]},
        "network": {
            **SMALL["network"],
            "depth": [20, 11, 29],
            "cardinality": [3, 6],
            "bottleneck_width": [2, 3, 1],
            "uneven": True,
        },
    }
)


def genotypes(space: SearchSpace) -> st.SearchStrategy[dict[str, Any]]:
    """Any genotype of the space."""
    return st.fixed_dictionaries({label: st.sampled_from(values) for label, values in space.choices().items()})


GENOTYPES, WIDE_GENOTYPES = genotypes(SPACE), genotypes(WIDE)


def changed(part: str, **fields: Any) -> dict[str, Any]:
    return {**SMALL, part: {**SMALL[part], **fields}}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_comment_of_a_shipped_space_tells_its_size(path: Path) -> None:
    """Every shipped space is read, and the size that its comment tells is its size."""
    told = re.search(r"# size: ([\d,]+) genotypes", path.read_text())
    assert told is not None
    assert int(told[1].replace(",", "")) == SearchSpace.load(path).size()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_space_round_trips(path: Path, tmp_path: Path) -> None:
    """A space that is written and read again is the same space."""
    space = SearchSpace.load(path)
    assert SearchSpace.load(space.save(tmp_path / "space.json")) == space
    assert SearchSpace.load(space.save(tmp_path / "space.yaml")) == space


def test_a_quick_copy_is_a_copy() -> None:
    """A copy with checked values is pydantic's own, in all that pydantic keeps, and leaves the first as it was."""
    first = named_policy("all-to-all", 3, 20).points[0]
    before, other = first.model_copy(deep=True), {"after": 4, "merge": "weighted"}
    quick, usual = first.with_checked(**other), first.model_copy(update=other)
    assert quick == usual
    assert first == before
    assert all(getattr(quick, slot) == getattr(usual, slot) for slot in type(first).__slots__)
    assert quick.model_fields_set == usual.model_fields_set
    assert type(first).model_validate(quick.model_dump()) == quick


@given(st.one_of(st.tuples(st.just(space), genotypes(space)) for space in (SPACE, WIDE)))
def test_every_genotype_means_an_architecture(drawn: tuple[SearchSpace, dict[str, Any]]) -> None:
    """Any genotype gives a valid architecture of its choices, whose policy the space can express again."""
    space, genotype = drawn
    architecture = space.architecture_of(genotype)
    assert Architecture.from_data(architecture.to_data()) == architecture
    assert all(point.transfers for point in architecture.policy.points)
    again = space.genotype_of(architecture.policy, architecture.depth)
    assert again is not None
    assert space.architecture_of(again).policy == architecture.policy


@given(WIDE_GENOTYPES)
def test_each_choice_of_the_network_is_heard(genotype: dict[str, Any]) -> None:
    """Depth, cardinality and each device's own width are those of the genotype."""
    architecture = WIDE.architecture_of(genotype)
    assert architecture.depth == genotype["depth"]
    for rank, part in enumerate(architecture.parts):
        assert part.bottleneck_width == genotype[f"device{rank}.bottleneck_width"]
        assert part.cardinality == genotype["cardinality"] // 3


@given(WIDE_GENOTYPES)
def test_a_shallower_network_keeps_the_points_of_its_blocks(genotype: dict[str, Any]) -> None:
    """Place k of stage s has the same transfers at every depth that has it; where a stage ends their lag is 0."""
    found, deepest = (
        WIDE.architecture_of({**genotype, "depth": depth, "readout": "mean"}) for depth in (genotype["depth"], 29)
    )
    per_stage = found.blocks_per_stage[0]
    sent = {divmod(p.after, per_stage): p.transfers for p in found.policy.points}
    kept = {divmod(p.after, 3): p.transfers for p in deepest.policy.points if p.after % 3 < per_stage}
    assert sent.keys() == kept.keys()
    for (stage, place), transfers in sent.items():
        at_end = {"lag": 0} if place == per_stage - 1 else {}
        assert transfers == tuple(t.model_copy(update=at_end) for t in kept[stage, place])


def test_a_device_that_is_not_asked_has_no_width() -> None:
    """Networks that differ only in devices that cannot reach the answer are one candidate."""
    silent = {**WIDE.smallest(), "readout": "device:0"}
    keys = {
        plan_key(build_plan(WIDE.architecture_of({**silent, "device1.bottleneck_width": width}))) for width in (1, 3)
    }
    assert len(keys) == 1


def test_different_networks_never_have_one_key() -> None:
    """Depth, cardinality and width of a device that answers alone show in the key of its plan."""
    numbers = {"depth": [11, 20, 29], "cardinality": list(range(1, 13)), "bottleneck_width": list(range(1, 33))}
    network = {**SMALL["network"], "num_devices": 1, **numbers}
    space = SearchSpace.from_data({"network": network, "policy": {"patterns": ["none"], "exchange_points": []}})
    chosen = [dict(zip(numbers, values, strict=True)) for values in product(*numbers.values())]
    keys = {plan_key(build_plan(space.architecture_of({**space.largest(), **c}))) for c in chosen}
    assert len(keys) == len(chosen)


def test_spread_samples_cover_the_bytes() -> None:
    """Each octave of bytes, from a hundredth of the largest network's to its quarter, gets its share of samples."""
    space = SearchSpace.load(FOLDER / "cifar-small.yaml")
    draw = random.Random(0).randrange
    top = build_plan(space.architecture_of(space.largest())).payload_bytes()
    found = [build_plan(space.architecture_of(space.sample_spread(draw))).payload_bytes() for _ in range(400)]
    octaves = Counter(floor(log2(payload / top)) for payload in found if payload)
    assert all(octaves[octave] >= 20 for octave in range(-7, -2))


@pytest.mark.parametrize(("num_devices", "count"), [(2, 1), (3, 3), (4, 3), (5, 15), (8, 105)])
def test_swaps_are_all_ways_to_pair_devices_up(num_devices: int, count: int) -> None:
    """`swaps` stands for every pairing of the devices, each once; in each a device has one partner or none."""
    names = PolicySpace(patterns=("swaps",)).pattern_names(num_devices)
    pairings = {frozenset(pattern_pairs(name, num_devices)) for name in names}
    assert len(names) == len(pairings) == count
    for pairs in pairings:
        assert {(b, a) for a, b in pairs} == pairs
        assert len({a for a, _ in pairs}) == len(pairs) == num_devices - num_devices % 2


@given(GENOTYPES, st.integers(0, 5), st.sampled_from(["fraction", "wire", "lag"]), st.data())
def test_what_a_silent_point_says_else_does_not_matter(
    genotype: dict[str, Any], block: int, gene: str, data: st.DataObject
) -> None:
    """Two genotypes that differ only at a point without transfers are one candidate."""
    label = f"point{block}.{gene}"
    silent = {**genotype, f"point{block}.pattern": data.draw(st.sampled_from(["none", "permutation:012"]))}
    other = {**silent, label: data.draw(st.sampled_from(SPACE.choices()[label]))}
    assert SPACE.architecture_of(silent).policy == SPACE.architecture_of(other).policy
    assert plan_key(build_plan(SPACE.architecture_of(silent))) == plan_key(build_plan(SPACE.architecture_of(other)))


@given(WIDE_GENOTYPES, st.sampled_from(list(WIDE.choices())), st.data())
def test_equal_keys_mean_equal_plans(genotype: dict[str, Any], label: str, data: st.DataObject) -> None:
    """Two candidates have one key exactly when their pruned plans say the same but for names."""
    other = {**genotype, label: data.draw(st.sampled_from(WIDE.choices()[label]))}
    plans = [build_plan(WIDE.architecture_of(g)) for g in (genotype, other)]
    assert (plan_key(plans[0]) == plan_key(plans[1])) == (renamed(plans[0], "") == renamed(plans[1], ""))


@given(GENOTYPES)
def test_the_key_does_not_hang_on_names(genotype: dict[str, Any]) -> None:
    """Other names of tensors and segments and other tags leave the key as it is."""
    plan = build_plan(SPACE.architecture_of(genotype))
    assert plan_key(renamed(plan, "other")) == plan_key(plan)


@given(WIDE_GENOTYPES)
def test_the_key_is_the_hash_of_the_steps_as_tuples(genotype: dict[str, Any]) -> None:
    """Keys stand in files: how they are made may change, what they are may not."""
    plan = build_plan(WIDE.architecture_of(genotype))
    tags: dict[int, int] = {}
    told: list[Any] = [plan.answering[0], _sides(plan.outputs[0].shape)]
    for rank in range(plan.num_devices):
        names: dict[str, int] = {}
        told.append([_told(plan, rank, step, names, tags) for step in plan.programs[rank]])
    assert plan_key(plan) == hashlib.sha256(repr(told).encode()).hexdigest()[:32]


def _sides(shape: Shape) -> tuple[int, int, int]:
    return shape.dims if len(shape.dims) == 3 else (*shape.dims, 1, 1)


def _told(plan: Plan, rank: int, step: Step, names: dict[str, int], tags: dict[int, int]) -> tuple[Any, ...]:
    shapes = plan.shapes[rank]
    if isinstance(step, Send):
        tensor, tag = names.setdefault(step.tensor, len(names)), tags.setdefault(step.tag, len(tags))
        channels, rows, *_ = (*step.region.ranges, (0, 1))
        return ("send", tensor, channels, rows, step.wire, step.to, tag)
    if isinstance(step, Recv):
        tensor, tag = names.setdefault(step.tensor, len(names)), tags.setdefault(step.tag, len(tags))
        return ("recv", tag, step.source, tensor, _sides(shapes[step.tensor]))
    inputs = [names.setdefault(tensor, len(names)) for tensor in step.inputs]
    [output] = [names.setdefault(name, len(names)) for name in step.writes]
    if isinstance(step, Merge):
        return ("merge", step.kind, inputs, output)
    _, _, *work = astuple(plan.segments[rank][step.segment])[:7]  # neither names nor what follows from the layers
    return ("compute", tuple(work), inputs, output, _sides(shapes[step.outputs[0]]))


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(WIDE_GENOTYPES, min_size=2, max_size=4))
def test_what_candidates_share_does_not_change_them(genotypes: list[dict[str, Any]]) -> None:
    """A candidate is after others what it is alone: in all that is kept nothing is taken for something else."""
    assert [_evaluated(genotype) for genotype in genotypes] == [_evaluated_alone(genotype) for genotype in genotypes]


def _evaluated(genotype: dict[str, Any]) -> tuple[Any, ...]:
    architecture = WIDE.architecture_of(genotype)
    plan = build_plan(architecture)
    return architecture, plan, plan_key(plan), simulate(plan, uniform_cluster(plan.num_devices), timeline=True)


def _evaluated_alone(genotype: dict[str, Any]) -> tuple[Any, ...]:
    forget_all()
    return _evaluated(genotype)


@pytest.mark.parametrize("block", [1, 3, 5])
def test_lag_at_the_end_of_a_stage_is_read_as_none(block: int) -> None:
    """Where a stage ends lag 1 and lag 0 are the same policy."""
    genotype = SPACE.largest()
    late = {**genotype, f"point{block}.lag": 1}
    assert SPACE.architecture_of(late).policy == SPACE.architecture_of(genotype).policy


def test_two_patterns_of_one_meaning_are_one_candidate() -> None:
    """A ring shift and the permutation that says the same have one key."""
    ring = {**SPACE.largest(), "point2.pattern": "ring:1"}
    order = {**SPACE.largest(), "point2.pattern": "permutation:120"}
    keys = {plan_key(build_plan(SPACE.architecture_of(genotype))) for genotype in (ring, order)}
    assert len(keys) == 1


def test_dead_transfers_do_not_make_a_candidate() -> None:
    """Policies that differ only in transfers that cannot reach the answer are one candidate."""
    silent = {**SPACE.smallest(), "readout": "device:0"}
    shift, swap = ({**silent, "point5.pattern": name} for name in ("ring:2", "permutation:102"))
    assert SPACE.architecture_of(shift).policy != SPACE.architecture_of(swap).policy
    keys = {plan_key(build_plan(SPACE.architecture_of(genotype))) for genotype in (shift, swap)}
    assert len(keys) == 1


@pytest.mark.parametrize("name", ["all-to-all", "hand-made", "none"])
def test_the_papers_policies_are_in_the_space(name: str) -> None:
    """A space that offers their choices expresses the paper's named policies, at every depth."""
    for space, depth in ((SPACE, 20), (WIDE, 11), (WIDE, 20), (WIDE, 29)):
        policy = named_policy(name, 3, depth)
        genotype = space.genotype_of(policy, depth)
        assert genotype is not None
        architecture = space.architecture_of(genotype)
        assert architecture.policy.points == policy.points
        assert architecture.depth == depth
        assert {part.bottleneck_width for part in architecture.parts} == {2 if space is SPACE else 3}


def test_a_policy_outside_the_space_is_not_expressed() -> None:
    """The paper's space has lag 1 only, so the all-to-all baseline is not in it, but the hand-made policy is."""
    paper = SearchSpace.load(FOLDER / "paper.yaml")
    assert paper.genotype_of(named_policy("all-to-all", 4, 56)) is None
    assert paper.genotype_of(named_policy("hand-made", 4, 56)) is not None
    assert len(paper.blocks) == 9


@given(WIDE_GENOTYPES)
def test_the_ends_of_the_space_bound_it(genotype: dict[str, Any]) -> None:
    """No genotype sends more or has more weights than the largest, or less than the smallest."""
    architectures = [WIDE.architecture_of(g) for g in (WIDE.smallest(), genotype, WIDE.largest())]
    payloads = [build_plan(architecture).payload_bytes() for architecture in architectures]
    assert payloads == sorted(payloads)
    for rank in range(3):
        weights = [sum(layer.num_weights for layer in device_layers(a, rank)) for a in architectures]
        assert weights == sorted(weights)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (changed("policy", patterns=[]), "policy.patterns"),
        (changed("policy", wires=[]), "policy.wires"),
        (changed("policy", patterns=["spiral"]), "`policy.patterns.0`: unknown pattern 'spiral'; allowed: none"),
        (changed("policy", patterns=["none", "ring:3"]), "`policy.patterns.1`: pattern 'ring:3': the number must lie"),
        (changed("policy", patterns=["permutation:01"]), "names 2 ranks, but there are 3 devices"),
        (changed("policy", patterns=["none", "none"]), "'none' stands 2 times"),
        (changed("policy", exchange_points=[2, 6]), "`policy.exchange_points` names block 6, but the blocks are 0..5"),
        (changed("policy", exchange_points="odd"), "expected `all`, `even`, or a list"),
        (changed("policy", exchange_points=[2, 1]), "must rise"),
        (changed("policy", readouts=["device:3"]), "'device:3'; allowed: mean, device:R with R in 0..2"),
        (changed("policy", fractions=[0]), "policy.fractions.0"),
        (changed("policy", lags=[2]), "policy.lags.0"),
        (changed("policy", speed=1), "unknown key; allowed: exchange_points"),
        (changed("network", cardinality=4), "`cardinality` (=4) must be divisible by `num_devices` (=3)"),
        (changed("network", depth=21), "`depth` must be 9n + 2"),
        (changed("network", cardinality=[3, 4]), "`cardinality` (=4) must be divisible by `num_devices` (=3)"),
        (changed("network", cardinality=[]), "field `network.cardinality`: an empty list leaves no choice"),
        (
            changed("network", bottleneck_width=[2, 2]),
            "field `network.bottleneck_width`: each choice may stand once, 2",
        ),
        (changed("network", bottleneck_width="wide"), "a whole number from 1, or a list of such numbers, got 'wide'"),
        (changed("network", depth=[]), "field `network.depth`: an empty list"),
        (
            changed("network", depth=[20, 21]),
            "`depth` must be 9n + 2 (11, 20, 29, ...), or for large images 14, 26, 50 or 152, got 21",
        ),
        (changed("network", uneven=True), "`uneven` needs a list of `bottleneck_width`"),
        (changed("policy", patterns=["swap:0-3"]), "must name ranks of 0..2, each at most once"),
        (changed("network", num_devices=None), "`num_devices` is missing; or give `parts`"),
        (changed("network", parts=[{"bottleneck_width": 2}]), "either `parts` or numbers"),
        ({**SMALL, "objectives": ["accuracy", "speed"]}, "objectives.1"),
        (
            {**SMALL, "constraints": {"max_speed": 1}},
            "`constraints.max_speed`: unknown key; allowed: devices_used, min_acc",
        ),
        ({**SMALL, "constraints": {"min_latency_s": 1.0}}, "`constraints.min_latency_s`: unknown key; allowed: "),
        ({**SMALL, "constraints": {"max_latency_s": "20ms"}}, "`constraints.max_latency_s`: must be a number"),
        ({**SMALL, "constraints": {"min_accuracy": 1.5}}, "`constraints.min_accuracy`: must be at most 1, got 1.5"),
        (
            {**SMALL, "constraints": {"min_accuracy_one_lost": 0.5}},
            "`constraints.min_accuracy_one_lost` bounds an objective evaluated on images, so `objectives` must "
            "name accuracy",
        ),
        ({**SMALL, "objectives": ["latency_s", "payload_bytes"]}, "must name accuracy"),
        ({**SMALL, "version": 2}, "up to version 1"),
    ],
)
def test_a_wrong_space_is_refused_with_its_place(data: dict[str, Any], said: str) -> None:
    """Every mistake in a space is refused with the file, the field, and what is allowed."""
    with pytest.raises(SpecError, match=re.escape(said)) as caught:
        SearchSpace.from_data(data, "my.yaml")
    assert "my.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("label", "value"),
    [("point0.wire", "fp64"), ("point0.wire", ["fp32"]), ("point9.wire", "fp32"), ("depth", "20")],
)
def test_a_foreign_genotype_is_refused(label: str, value: Any) -> None:
    """A genotype with an unknown label or choice is refused with its name."""
    with pytest.raises(SpecError, match=label):
        SPACE.architecture_of({**SPACE.largest(), label: value})


def test_uneven_parts_are_described_one_by_one() -> None:
    """`parts` gives each device its own width."""
    parts = [{"bottleneck_width": 2}, {"bottleneck_width": 4}, {"bottleneck_width": 8, "cardinality": 2}]
    network = {"depth": 11, "parts": parts}
    space = SearchSpace.from_data({"network": network, "policy": SMALL["policy"]})
    assert [part.bottleneck_width for part in space.architecture_of(space.largest()).parts] == [2, 4, 8]


def renamed(plan: Plan, prefix: str) -> Plan:
    """The same plan with tensors, segments and tags named by the order of their first mention."""
    tags: dict[int, int] = {}
    renamings = [_Renaming(prefix, {}, {}, tags) for _ in plan.programs]
    return Plan(
        programs=tuple(
            tuple(renaming.step(step) for step in program)
            for renaming, program in zip(renamings, plan.programs, strict=True)
        ),
        segments=tuple(
            {renaming.segments[name]: replace(segment, name="") for name, segment in segments.items()}
            for renaming, segments in zip(renamings, plan.segments, strict=True)
        ),
        shapes=tuple(
            {renaming.tensors[name]: shape for name, shape in shapes.items()}
            for renaming, shapes in zip(renamings, plan.shapes, strict=True)
        ),
        inputs=plan.inputs,
        outputs=plan.outputs,
    )


@dataclass
class _Renaming:
    prefix: str
    tensors: dict[str, str]
    segments: dict[str, str]
    tags: dict[int, int]

    def step(self, step: Step) -> Step:
        if isinstance(step, Send | Recv):
            tag = self.tags.setdefault(step.tag, len(self.tags))
            return replace(step, tag=tag, tensor=self._name(step.tensor))
        inputs = tuple(self._name(name) for name in step.inputs)
        [output] = map(self._name, step.writes)
        if isinstance(step, Merge):
            return Merge(step.kind, inputs, output)
        segment = self.segments.setdefault(step.segment, f"{self.prefix}s{len(self.segments)}")
        return Compute(segment, inputs, (output,))

    def _name(self, tensor: str) -> str:
        return self.tensors.setdefault(tensor, f"{self.prefix}t{len(self.tensors)}")
