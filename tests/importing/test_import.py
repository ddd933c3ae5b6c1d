"""`sepnas import`: sources, weights, what is written, and what is refused."""

from __future__ import annotations

import importlib
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sepnas import api
from sepnas.errors import ImportFailedError, SpecError, StorageError
from sepnas.importing.found import check_shape, parse_shape
from sepnas.importing.libraries import from_timm, from_torchvision
from sepnas.importing.source import find_network
from sepnas.importing.weights import read_weights, take_weights
from sepnas.nets.graph import load_graph_network
from sepnas.partition.counts import count_graph
from sepnas.partition.graph import load_graph
from sepnas.partition.trace.program import trace
from sepnas.spec.preparation import Preparation
from sepnas.train.vision import import_timm, import_torchvision

MODULE = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
    def forward(self, x):
        return self.conv(x).relu().mean((2, 3))

class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x

def broken():
    raise ValueError("no such size")

def ends():
    raise SystemExit(3)

class Ending(nn.Module):
    def forward(self, x):
        raise SystemExit(3)

class Nothing(Small):
    def forward(self, x):
        return self.conv(x), None

class Infinite(Small):
    def forward(self, x):
        y = self.conv(x)
        return y, y / 0

class Positive(Small):
    def forward(self, x):
        y = self.conv(x)
        return y > 0, torch.fft.fft2(y)

number = 3
made = Small()

def __getattr__(name):
    if name == "lazy":
        raise RuntimeError("not today")
    raise AttributeError(name)
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's module in the current folder."""
    (tmp_path / "their_networks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return tmp_path


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize("attribute", ["Small", "made"])
def test_a_module_of_ones_own_is_imported(tmp_path: Path, attribute: str) -> None:
    """A class, or a module that is there, becomes a folder whose network computes the same."""
    imported = api.import_network(f"their_networks:{attribute}", tmp_path / "out", input_shapes=[(3, 8, 8)])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["graph.json", "weights.safetensors"]
    assert load_graph(tmp_path / "out") == imported.graph
    assert imported.deviation <= 1e-5
    assert load_graph_network(tmp_path / "out")(torch.zeros(1, 3, 8, 8)).shape == (1, 4)


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("their_networks:Smal", "no network of this name; near are Small"),
        ("their_networks:number", "fails|makes int, not a torch.nn.Module"),
        (
            "their_networks:broken",
            r"fails \(line \d+ of .*their_networks.py, in broken: `raise .*`\): ValueError: no such size",
        ),
        (
            "their_networks:Branching",
            r"control flow.*line 14 of .*their_networks.py, in forward: `if x.*; choose with torch.where",
        ),
        ("their_networks:ends", r"fails \(line \d+ of .*their_networks.py, in ends: `raise .*`\): SystemExit: 3"),
        (
            "their_networks:Ending",
            r"cannot be traced .*their_networks.py, in forward: `raise SystemExit\(3\)`\): SystemExit: 3",
        ),
        ("their_networks:lazy", r"fails \(line \d+ of .*__getattr__: `raise .*`\): RuntimeError: not today"),
        ("their_networks:Nothing", "output 1 is a number, a text or nothing; all outputs must be tensors"),
        ("their_networks:Infinite", "output 1 is not finite"),
        ("their_network:Small", "there is no module 'their_network'"),
        ("torchvision:resnet5", "near are resnet50"),
        ("timm:vit_tinypatch16_224", "near are vit_tiny_patch16_224"),
        ("model.pth", "would have to be unpickled.*--weights model.pth"),
        ("model.pt2", "no such file"),
        ("nothing", "unknown network; expected timm:NAME"),
    ],
)
def test_impossible_imports_are_refused(tmp_path: Path, network: str, message: str) -> None:
    """Unknown names have near ones, code that fails its line; nothing is written."""
    with pytest.raises(ImportFailedError, match=message):
        api.import_network(network, tmp_path / "out", input_shapes=[(3, 8, 8)])
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".sepnas-import-*"))


@pytest.mark.usefixtures("own_module")
def test_outputs_may_be_of_any_type(tmp_path: Path) -> None:
    """Truth values and complex numbers are compared with the network's own, too."""
    imported = api.import_network("their_networks:Positive", tmp_path / "out", input_shapes=[(3, 8, 8)])
    assert [imported.graph.tensors[each.tensor].dtype for each in imported.graph.outputs] == ["bool", "complex64"]
    assert imported.deviation <= 1e-5


@pytest.mark.usefixtures("own_module")
def test_a_folder_is_replaced_on_demand_only(tmp_path: Path) -> None:
    """A network that stands there stays unless forced, and other folders stay in any case."""
    api.import_network("their_networks:Small", tmp_path / "out", input_shapes=[(3, 8, 8)])
    with pytest.raises(StorageError, match="pass --force"):
        api.import_network("their_networks:Small", tmp_path / "out", input_shapes=[(3, 9, 9)])
    api.import_network("their_networks:Small", tmp_path / "out", input_shapes=[(3, 9, 9)], force=True)
    assert load_graph(tmp_path / "out").tensors["x"].dims == (1, 3, 9, 9)
    (tmp_path / "out" / "plan.json").write_text("{}")
    with pytest.raises(StorageError, match=r"holds 'plan\.json' besides a network"):
        api.import_network("their_networks:Small", tmp_path / "out", input_shapes=[(3, 8, 8)], force=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(StorageError, match="is not an imported network"):
        api.import_network("their_networks:Small", tmp_path / "other", input_shapes=[(3, 8, 8)], force=True)


@pytest.mark.usefixtures("own_module")
def test_an_input_without_a_shape_is_asked_for(tmp_path: Path) -> None:
    """A module of one's own does not say what it takes."""
    with pytest.raises(ImportFailedError, match="such as --input-shape 3x224x224"):
        api.import_network("their_networks:Small", tmp_path / "out")


@pytest.mark.usefixtures("own_module")
def test_images_and_classes_of_ones_own_network_are_given(tmp_path: Path) -> None:
    """Mean, deviation, crop and class names of a module without a configuration; what fits nothing is refused."""
    traits = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "crop": 0.8, "classes": ["a", "b", "c", "d"]}

    def graph_with(**changes: object) -> Any:
        return api.import_network(
            "their_networks:Small", tmp_path / "out", input_shapes=[(3, 8, 8)], traits={**traits, **changes}, force=True
        ).graph

    graph = graph_with()
    assert (graph.image_input, graph.traits.classes) == ("x", ("a", "b", "c", "d"))
    assert graph.traits.preparation(8, 8) == Preparation(fit="cover", height=10, width=10, interpolation="bilinear")
    for changes, message in (
        ({"classes": ["a", "b"]}, r"2 class names fit no output: 'output' is \(1, 4\)"),
        ({"mean": (0.5,)}, "must hold one number for each channel"),
        ({"mean": (0.5,), "std": (0.5,)}, r"of 1 channels fit no image.*'x' is \(1, 3, 8, 8\)"),
        ({"std": (0.0,) * 3}, "those of `std` above 0"),
        ({"crop": -1.0}, "crop"),
        ({"interpolation": "sinc"}, "interpolation.*bicubic"),
        ({"size": 3}, "unknown traits size; allowed are classes, mean"),
    ):
        with pytest.raises(ImportFailedError, match=message):
            graph_with(**changes)


@pytest.mark.parametrize("text", ["", "3x", "3x-1", "3x0x3", "a", "1x" * 8 + "1", "99999x99999", "3x²"])
def test_wrong_shapes_are_refused(text: str) -> None:
    """A shape is a few sizes of at least 1."""
    with pytest.raises(ImportFailedError, match=r"input shape .* such as 3x224x224"):
        parse_shape(text)


def test_a_shape_is_read() -> None:
    """Sizes stand between x or commas."""
    assert parse_shape("3x224x224") == parse_shape("3,224,224") == check_shape([3, 224, 224])


def small() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()


def exported(path: Path) -> nn.Module:
    module = small()
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 8, 8),)), path)
    return module


def test_an_exported_program_is_imported(tmp_path: Path) -> None:
    """A .pt2 file gives the same network, without its sample inputs being unpickled."""
    module = exported(tmp_path / "small.pt2")
    api.import_network(str(tmp_path / "small.pt2"), tmp_path / "out")
    x = torch.randn(1, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(load_graph_network(tmp_path / "out")(x), module(x))


def rewritten(path: Path, change: Any) -> None:
    """The same archive with other records."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    change(records)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)


def _pickled_weight(records: dict[str, bytes]) -> None:
    name = next(each for each in records if each.endswith("model_weights_config.json"))
    config = json.loads(records[name])
    config["config"]["0.weight"]["use_pickle"] = True
    records[name] = json.dumps(config).encode()


def _older_weights(records: dict[str, bytes]) -> None:
    records["small/data/weights/model.pt"] = pickle.dumps(print)


def _other_operator(records: dict[str, bytes]) -> None:
    name = next(each for each in records if each.endswith("model.json"))
    records[name] = records[name].replace(b"torch.ops.aten.relu.default", b"torch.ops.prims.relu.default")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_pickled_weight, "weight '0.weight' would have to be unpickled"),
        (_older_weights, "holds 'data/weights/model.pt', which would have to be unpickled"),
        (_other_operator, r"uses operator 'torch.ops.prims.relu.default'"),
    ],
)
def test_programs_that_would_have_to_be_unpickled_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    """What torch's own reader would unpickle or look up is refused, and named."""
    exported(tmp_path / "small.pt2")
    rewritten(tmp_path / "small.pt2", change)
    with pytest.raises(ImportFailedError, match=message):
        api.import_network(str(tmp_path / "small.pt2"), tmp_path / "out")


def test_a_compressed_program_is_refused(tmp_path: Path) -> None:
    """A small file cannot make its reader allocate gigabytes."""
    exported(tmp_path / "small.pt2")
    with zipfile.ZipFile(tmp_path / "small.pt2", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("small/data/weights/weight_99", bytes(10_000_000))
    with pytest.raises(ImportFailedError, match=r"its records have 10,\d{3},\d{3} bytes, but it has .*compressed"):
        api.import_network(str(tmp_path / "small.pt2"), tmp_path / "out")


class Harmful:
    """Ends the process if it is unpickled."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.bin"])
def test_checkpoints_with_objects_are_refused(tmp_path: Path, name: str) -> None:
    """A checkpoint that would run code is refused, and none is run."""
    torch.save({"state_dict": {"0.weight": torch.zeros(1)}, "extra": Harmful()}, tmp_path / name)
    with pytest.raises(ImportFailedError, match="would have to be unpickled; that can run any code"):
        read_weights(tmp_path / name)


def test_weights_come_from_either_kind_of_file(tmp_path: Path) -> None:
    """Safetensors, and checkpoints that training programs nest and prefix."""
    module, wanted = small(), {name: torch.randn_like(x.float()) for name, x in small().state_dict().items()}
    wanted.pop("1.num_batches_tracked")
    save_file(wanted, tmp_path / "a.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": x for name, x in wanted.items()}}, tmp_path / "b.pth")
    for name in ("a.safetensors", "b.pth"):
        fresh = small()
        take_weights(fresh, tmp_path / name, "small")
        assert all(torch.equal(fresh.state_dict()[each], x) for each, x in wanted.items())
    assert not torch.equal(module.state_dict()["0.weight"], wanted["0.weight"])


def test_a_part_called_module_keeps_its_name(tmp_path: Path) -> None:
    """Names begin with what training in parallel puts before all of them only if the network's own do not."""
    for module in (nn.ModuleDict({"module": small()}), nn.ModuleDict({"module": small(), "head": nn.Linear(2, 2)})):
        wanted = {name: x + 1 for name, x in module.state_dict().items()}
        torch.save(wanted, tmp_path / "w.pt")
        take_weights(module, tmp_path / "w.pt", "own")
        assert torch.equal(module.state_dict()["module.0.weight"], wanted["module.0.weight"])


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (torch.zeros(4, device="meta"), "'0.bias' is a sparse, quantised, nested or empty tensor"),
        (torch.zeros(4).to_sparse(), "'0.bias' is a sparse, quantised, nested or empty tensor"),
        (torch.ones(4, dtype=torch.complex64), "'0.bias' has complex numbers instead of torch.float32"),
        (torch.tensor([0, 1, float("nan"), 2]), "'0.bias' has numbers that are not finite"),
        (torch.full((4,), 1e300, dtype=torch.float64), "'0.bias' has numbers that are not finite"),
    ],
)
def test_tensors_that_are_no_weights_are_refused(tmp_path: Path, bias: Tensor, message: str) -> None:
    """Tensors without values of their own, and values that the network cannot hold, are named."""
    torch.save({**small().state_dict(), "0.bias": bias}, tmp_path / "w.pt")
    with pytest.raises(ImportFailedError, match=rf"w.pt: .*{message}"):
        take_weights(small(), tmp_path / "w.pt", "small")


def test_weights_with_other_names_are_taken_in_their_order(tmp_path: Path) -> None:
    """Only on demand, and only if every shape fits: the error names the demand, or the first place that differs."""
    kept = {name: x for name, x in small().state_dict().items() if "num" not in name}
    torch.save({f"layer{place}": x + 1 for place, x in enumerate(kept.values())}, tmp_path / "w.pt")
    module = small()
    with pytest.raises(ImportFailedError, match=r"none of the names of small, but all 6 shapes .* add `match='order'`"):
        take_weights(module, tmp_path / "w.pt", "small")
    take_weights(module, tmp_path / "w.pt", "small", "order")
    assert torch.equal(module.state_dict()["0.weight"], kept["0.weight"] + 1)
    torch.save(dict(reversed(kept.items())), tmp_path / "back.pt")
    message = r"number 1 is '1.running_var' of shape \(4,\), where the network has '0.weight' of shape \(4, 3, 3, 3\)"
    with pytest.raises(ImportFailedError, match=message):
        take_weights(module, tmp_path / "back.pt", "small", "order")
    torch.save(dict(list(kept.items())[:5]), tmp_path / "less.pt")
    with pytest.raises(ImportFailedError, match=r"number 6 is none, where the network has '1\.running_var'"):
        take_weights(module, tmp_path / "less.pt", "small", "order")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": torch.zeros(4, 3, 5, 5)}, r"'0.weight' has shape \(4, 3, 5, 5\) instead of \(4, 3, 3, 3\)"),
        ({"spare": torch.zeros(1)}, "'spare' is left over"),
        ({"0.bias": None}, "'0.bias' is missing"),
    ],
)
def test_weights_of_another_network_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """The tensors that do not fit are said, with both shapes."""
    tensors: dict[str, Tensor | None] = {**small().state_dict(), **change}
    torch.save({name: x for name, x in tensors.items() if x is not None}, tmp_path / "w.pt")
    with pytest.raises(ImportFailedError, match=f"another network than small: {message}"):
        take_weights(small(), tmp_path / "w.pt", "small")


@pytest.mark.parametrize("data", [b"", b"no checkpoint at all", b"\x80\x04]."])
def test_damaged_weights_are_refused(tmp_path: Path, data: bytes) -> None:
    """Neither noise nor a bare pickle is taken for weights."""
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImportFailedError, match=rf"{name}: "):
            read_weights(tmp_path / name)


def test_an_imported_folder_with_other_weights_is_refused(tmp_path: Path) -> None:
    """A file of weights that lost a tensor is named with the tensor."""
    exported(tmp_path / "small.pt2")
    api.import_network(str(tmp_path / "small.pt2"), tmp_path / "out")
    path = tmp_path / "out" / "weights.safetensors"
    tensors = load_file(path)
    tensors.pop("0.bias")
    save_file(tensors, path)
    with pytest.raises(SpecError, match=r"weights.safetensors: tensor '0.bias' of network 'small' is missing"):
        load_graph_network(tmp_path / "out")


def test_a_network_of_sepnas_is_imported(tmp_path: Path) -> None:
    """An architecture by name is a network like any other, its exchanges included."""
    imported = api.import_network("resnext11_2x4d", tmp_path / "out", seed=1)
    assert imported.graph.inputs
    assert imported.deviation <= 1e-5


@pytest.mark.parametrize(
    ("source", "size", "gmacs", "parameters"),
    [
        ("torchvision:resnet50", (3, 224, 224), 4.09, 25_557_032),
        pytest.param("torchvision:vgg16", (3, 224, 224), 15.47, 138_357_544, marks=pytest.mark.slow),
        pytest.param("torchvision:mobilenet_v2", (3, 224, 224), 0.30, 3_504_872, marks=pytest.mark.slow),
        pytest.param("torchvision:alexnet", (3, 224, 224), 0.71, 61_100_840, marks=pytest.mark.slow),
        pytest.param("torchvision:efficientnet_b0", (3, 224, 224), 0.39, 5_288_548, marks=pytest.mark.slow),
        pytest.param("torchvision:resnext50_32x4d", (3, 224, 224), 4.23, 25_028_904, marks=pytest.mark.slow),
        ("timm:vit_tiny_patch16_224", (3, 224, 224), 1.25, 5_717_416),
    ],
)
def test_macs_and_parameters_are_the_published_ones(
    source: str, size: tuple[int, ...], gmacs: float, parameters: int
) -> None:
    """Counted on torch's meta device, where weights take no memory."""
    library, _, name = source.partition(":")
    with torch.device("meta"):
        if library == "timm":
            import_timm("models")
            module = importlib.import_module("timm").create_model(name)
        else:
            module = import_torchvision("models").get_model(name, weights=None)
    counts = count_graph(trace(module, [torch.zeros(1, *size, device="meta")], name=name, source=source)[0])
    assert counts.macs / 1e9 == pytest.approx(gmacs, abs=0.006)
    assert counts.parameters == parameters
    assert counts.opaque == ()


def test_what_configurations_say_of_images_and_classes_is_kept() -> None:
    """timm's and torchvision's means, sizes and names of classes come along."""
    traits = from_torchvision("squeezenet1_1", False).traits
    assert (len(traits.classes), traits.classes[0], traits.size) == (1000, "tench", (224, 224))
    assert traits.mean == (0.485, 0.456, 0.406)
    assert (traits.crop, traits.interpolation) == (0.875, "bilinear")
    traits = from_timm("test_efficientnet", False).traits
    assert (len(traits.std), traits.size) == (3, (160, 160))


def test_random_weights_follow_the_seed() -> None:
    """The same seed gives the same weights, another one others, and torch's generator stays as it is."""
    before = torch.random.get_rng_state()
    first, again, other = (find_network("torchvision:squeezenet1_1", seed=seed).module for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    weights = [next(iter(module.parameters())) for module in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_noise_is_no_archive(tmp_path: Path) -> None:
    """A file that only ends in .pt2 is refused."""
    (tmp_path / "a.pt2").write_bytes(io.BytesIO(b"noise").read())
    with pytest.raises(ImportFailedError, match=r"a.pt2: refused"):
        find_network(str(tmp_path / "a.pt2"))
