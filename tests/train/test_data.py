"""Data sets: digits, folders, and torchvision's sets that are not there."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sepnas.errors import DataError
from sepnas.spec.listing import listed
from sepnas.train import folder
from sepnas.train.augment import crop_and_flip
from sepnas.train.auto_augment import auto_augment
from sepnas.train.batches import Batches
from sepnas.train.data import Split, load_dataset, stratified_holdout
from sepnas.train.images import ImageData, channel_statistics
from sepnas.train.recipe import Augmentation, Recipe


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_dataset("digits")


def rows(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


def make_folder(root: Path, parts: tuple[str, ...] = ("train", "test"), mode: str = "L", size: int = 8) -> Path:
    """Two classes of four images each in every part, all different."""
    numbers = np.random.default_rng(0)
    for part in parts:
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for index in range(4):
                shape = (size, size) if mode == "L" else (size, size, 3)
                pixels = numbers.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
    return root


def load_folder(root: Path, **options: object) -> ImageData:
    return load_dataset(f"folder:{root}", root=root.parent / "cache", **options)  # type: ignore[arg-type]


def test_digits_are_1797_images_in_three_parts_of_every_class(digits: ImageData) -> None:
    """The digits are 8x8, one channel, 60/20/20 percent, and each split holds each class in proportion."""
    assert (len(digits.train), len(digits.val), len(digits.test)) == (1079, 359, 359)
    assert digits.train.images.shape[1:] == (1, 8, 8)
    assert digits.train.images.dtype == torch.uint8
    assert digits.train.labels.dtype == torch.int64
    assert (digits.in_channels, digits.image_size, digits.num_classes) == (1, 8, 10)
    assert int(digits.train.images.max()) == 255
    for split in (digits.train, digits.val, digits.test):
        shares = torch.bincount(split.labels, minlength=10) / len(split)
        assert ((shares > 0.09) & (shares < 0.11)).all()


def test_the_splits_of_digits_share_no_image(digits: ImageData) -> None:
    """No image of one split stands in another, and together they are the whole set."""
    train, val, test = rows(digits.train), rows(digits.val), rows(digits.test)
    assert train.isdisjoint(val)
    assert test.isdisjoint(train | val)
    assert len(digits.train) + len(digits.val) + len(digits.test) == 1797


def test_the_test_split_never_changes(digits: ImageData) -> None:
    """Another seed holds out other images for validation, but the test split stays, bit for bit, for ever."""
    other = load_dataset("digits", seed=7, validation_fraction=0.1)
    assert torch.equal(other.test.images, digits.test.images)
    assert rows(other.val) != rows(digits.val)
    assert len(other.val) == pytest.approx(180, abs=5)
    assert hashlib.sha256(digits.test.images.numpy().tobytes()).hexdigest()[:16] == "9e1786794306b79a"


def test_normalising_is_the_devices_arithmetic(digits: ImageData) -> None:
    """numpy gets the same float32 numbers, bit for bit, from (x / 255 - mean) / std in that order."""
    x = digits.val.images
    mean, std = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (digits.mean, digits.std))
    expected = (x.numpy().astype(np.float32) / np.float32(255) - mean) / std
    assert digits.normalise(x).numpy().tobytes() == expected.astype(np.float32).tobytes()


def test_normalised_training_images_have_mean_0_and_deviation_1(digits: ImageData) -> None:
    """Mean and deviation are those of the training split; a channel of one value is left unscaled."""
    x = digits.normalise(digits.train.images)
    assert float(x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(x.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert channel_statistics(torch.full((2, 1, 3, 3), 51, dtype=torch.uint8)) == ((0.2,), (1.0,))


def test_digits_can_be_resized() -> None:
    """An image size resizes every split."""
    data = load_dataset("digits", image_size=12)
    assert data.image_size == 12
    assert data.test.images.shape == (359, 1, 12, 12)


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(2, 30), min_size=1, max_size=6),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
)
def test_a_holdout_is_disjoint_complete_and_takes_of_every_class(counts: list[int], fraction: float, seed: int) -> None:
    """Kept and held out indices partition the images, and each class stands on both sides."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    kept, held_out = stratified_holdout(labels, fraction, seed)
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(len(labels)))
    assert set(labels[kept].tolist()) == set(labels[held_out].tolist()) == set(range(len(counts)))


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "cifar100"])
def test_a_missing_data_set_names_the_folder_and_the_remedy(name: str, tmp_path: Path) -> None:
    """A torchvision set that is not there is not fetched unasked."""
    with pytest.raises(DataError, match="download=True") as caught:
        load_dataset(name, root=tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(DataError, match="nowhere: no such folder"):
        load_dataset(name, root=tmp_path / "nowhere")


def test_fashion_mnist_is_read_from_its_published_files(tmp_path: Path) -> None:
    """The published format (idx) is read where torchvision expects it, and the published test part stays the test."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        images = numbers.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in images.shape)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        labels = np.arange(count, dtype=np.uint8) % 10
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            bytes([0, 0, 8, 1]) + count.to_bytes(4, "big") + labels.tobytes()
        )
    data = load_dataset("fashion-mnist", root=tmp_path, validation_fraction=0.25)
    assert (len(data.train), len(data.val), len(data.test)) == (30, 10, 20)
    assert (data.in_channels, data.image_size, data.classes[1]) == (1, 28, "Trouser")
    assert np.array_equal(data.test.images[:, 0].numpy(), images)


def test_an_unknown_name_is_refused() -> None:
    """The message lists the names there are."""
    with pytest.raises(DataError, match="digits, cifar10, cifar100, fashion-mnist, folder:PATH"):
        load_dataset("imagenet")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_a_validation_fraction_must_leave_something_on_both_sides(fraction: float) -> None:
    """0 and 1 leave nothing to validate with or to train on."""
    with pytest.raises(DataError, match="validation_fraction"):
        load_dataset("digits", validation_fraction=fraction)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_a_folder_loads_with_its_pixels_and_classes(mode: str, channels: int, tmp_path: Path) -> None:
    """Pixels, class names and labels are those of the files; the validation split comes out of train."""
    root = make_folder(tmp_path / "data", mode=mode)
    data = load_folder(root, validation_fraction=0.25)
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.val), len(data.test)) == (6, 2, 8)
    assert data.in_channels == channels
    pixels = np.asarray(Image.open(root / "test" / "dog" / "2.png"))
    assert np.array_equal(data.test.images[6].permute(1, 2, 0).squeeze(2).numpy(), pixels)
    assert data.test.labels.tolist() == [0] * 4 + [1] * 4


def test_one_colour_image_makes_the_folder_colour(tmp_path: Path) -> None:
    """A folder is grayscale only when all of its images are."""
    root = make_folder(tmp_path / "data")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(root / "test" / "dog" / "3.png")
    data = load_folder(root)
    assert data.in_channels == 3
    assert data.test.images[7, :, 0, 0].tolist() == [255, 0, 0]


def test_val_beside_train_and_test_is_the_validation_split(tmp_path: Path) -> None:
    """With all three folders nothing is held out of train."""
    data = load_folder(make_folder(tmp_path / "data", ("train", "val", "test")))
    assert (len(data.train), len(data.val), len(data.test)) == (8, 8, 8)


def test_val_without_test_serves_as_the_test_split(tmp_path: Path) -> None:
    """Then validation is held out of train, so that val stays unseen."""
    root = make_folder(tmp_path / "data", ("train", "val"))
    data = load_folder(root, validation_fraction=0.25)
    assert (len(data.train), len(data.val), len(data.test)) == (6, 2, 8)
    pixels = np.asarray(Image.open(root / "val" / "cat" / "0.png"))
    assert np.array_equal(data.test.images[0, 0].numpy(), pixels)


def test_the_second_load_reads_the_cache_and_a_changed_file_is_seen(tmp_path: Path) -> None:
    """The cache stands outside of the data, holds no pickles, and is passed over when a file or itself is damaged."""
    root = make_folder(tmp_path / "data")
    before = sorted(root.rglob("*"))
    first = load_folder(root)
    (cached,) = (tmp_path / "cache" / "folders").iterdir()
    np.load(cached, allow_pickle=False)
    assert sorted(root.rglob("*")) == before
    assert torch.equal(load_folder(root).test.images, first.test.images)
    cached.write_bytes(b"damaged")
    assert torch.equal(load_folder(root).test.images, first.test.images)
    Image.new("L", (8, 8), 9).save(root / "test" / "cat" / "0.png")
    os.utime(root / "test" / "cat" / "0.png", ns=(1, 1))
    assert torch.unique(load_folder(root).test.images[0]).tolist() == [9]
    assert len(list((tmp_path / "cache" / "folders").iterdir())) == 1


def test_the_cache_knows_swapped_files(tmp_path: Path) -> None:
    """Two files of equal size and time that changed places are decoded anew; so is one written over."""
    root = make_folder(tmp_path / "data")
    cat, dog = (root / "test" / name / "0.bmp" for name in ("cat", "dog"))
    for path, value in ((cat, 50), (dog, 200)):
        Image.new("L", (8, 8), value).save(path)
        os.utime(path, ns=(1, 1))

    def values() -> list[int]:
        images = load_folder(root).test.images  # 0.bmp is before 0.png
        return images[[0, 5], 0, 0, 0].tolist()

    assert values() == [50, 200]
    cat.rename(root / "cat")
    dog.rename(cat)
    (root / "cat").rename(dog)
    assert values() == [200, 50]
    time = cat.stat().st_mtime_ns
    Image.new("L", (8, 8), 90).save(cat)
    os.utime(cat, ns=(time, time))
    assert values() == [90, 50]


def test_what_changes_while_it_is_decoded_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache never has pixels under the key of files that came later."""
    root = make_folder(tmp_path / "data")
    path = root / "test" / "cat" / "0.png"
    decode = folder._decode

    def decode_and_change(*arguments: object) -> np.ndarray:
        images = decode(*arguments)  # type: ignore[arg-type]
        Image.new("L", (8, 8), 77).save(path)
        return images

    monkeypatch.setattr(folder, "_decode", decode_and_change)
    load_folder(root)
    monkeypatch.undo()
    assert load_folder(root).test.images[0].unique().tolist() == [77]


def test_data_are_known_by_their_content(tmp_path: Path) -> None:
    """Another spelling of the path, or a copy, is the same data; swapped labels or another split are not."""
    root = make_folder(tmp_path / "data")
    shutil.copytree(root, tmp_path / "copy")
    data = load_folder(root)
    assert data.sha256 == load_folder(Path(f"{root}/../data")).sha256 == load_folder(tmp_path / "copy").sha256
    assert data.sha256 != load_folder(root, validation_fraction=0.5).sha256
    assert data.sha256 != load_folder(root, seed=1).sha256
    cat, dog = (tmp_path / "copy" / "train" / name for name in ("cat", "dog"))
    cat.rename(tmp_path / "cat")
    dog.rename(cat)
    (tmp_path / "cat").rename(dog)
    assert data.sha256 != load_folder(tmp_path / "copy").sha256


def test_a_folder_of_several_sizes_needs_an_image_size(tmp_path: Path) -> None:
    """The first file of another size is named; with an image size all are resized."""
    root = make_folder(tmp_path / "data")
    odd = root / "train" / "dog" / "1.png"
    Image.new("L", (10, 10)).save(odd)
    with pytest.raises(DataError, match=rf"{odd}: is 10x10 pixels, but .*cat/0.png is 8x8"):
        load_folder(root)
    assert load_folder(root, image_size=6).image_size == 6


def test_images_must_be_square(tmp_path: Path) -> None:
    """A folder whose images are not square is refused unless an image size is given."""
    root = make_folder(tmp_path / "data")
    for path in root.rglob("*.png"):
        Image.new("L", (8, 6)).save(path)
    with pytest.raises(DataError, match="8x6 pixels, not square"):
        load_folder(root)


@pytest.mark.parametrize(("has", "lacks"), [("train", "test"), ("test", "train")])
def test_a_class_of_one_part_that_another_lacks_is_named(has: str, lacks: str, tmp_path: Path) -> None:
    """Train and test must have the same classes, in both directions."""
    root = make_folder(tmp_path / "data")
    (root / has / "emu").mkdir()
    Image.new("L", (8, 8)).save(root / has / "emu" / "0.png")
    with pytest.raises(DataError, match=rf"{root / lacks}: has no class 'emu'"):
        load_folder(root)


def test_a_folder_without_test_or_val_is_refused(tmp_path: Path) -> None:
    """There must be something to test on."""
    with pytest.raises(DataError, match="neither `test` nor `val`"):
        load_folder(make_folder(tmp_path / "data", ("train",)))


def test_empty_and_missing_folders_are_named(tmp_path: Path) -> None:
    """No folder, no train, no class, no image: each message names the path."""
    root = tmp_path / "data"
    with pytest.raises(DataError, match=rf"{root}: no such folder"):
        load_folder(root)
    root.mkdir()
    with pytest.raises(DataError, match=rf"{root}: has no folder `train`"):
        load_folder(root)
    (root / "train").mkdir()
    (root / "test").mkdir()
    with pytest.raises(DataError, match=rf"{root}/train: is empty"):
        load_folder(root)
    (root / "train" / "cat").mkdir()
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=rf"{root}/train/cat: holds no images"):
        load_folder(root)
    with pytest.raises(DataError, match="'folder:' names no folder"):
        load_dataset("folder:")


@pytest.mark.parametrize("letter", ["\n", "\udcff"])
def test_classes_have_names_that_can_be_shown(letter: str, tmp_path: Path) -> None:
    """A control character, or bytes that are no UTF-8, in a folder's name are told with that name."""
    root = make_folder(tmp_path / "data")
    for part in ("train", "test"):
        (root / part / "cat").rename(root / part / f"c{letter}t")
    with pytest.raises(DataError, match=r"the folder .* with characters that cannot be shown"):
        load_folder(root)


def test_one_class_is_none(tmp_path: Path) -> None:
    """There must be something to tell apart."""
    root = make_folder(tmp_path / "data")
    for part in ("train", "test"):
        (root / part / "cat").rename(root / f"{part}-cat")
    with pytest.raises(DataError, match="has one class"):
        load_folder(root)


@pytest.mark.parametrize("damage", ["text", "cut"])
def test_an_unreadable_image_is_named(damage: str, tmp_path: Path) -> None:
    """A file that is no image, or half of one, stops the load with its path."""
    root = make_folder(tmp_path / "data", size=64)
    bad = root / "test" / "cat" / "1.png"
    bad.write_bytes(b"no image" if damage == "text" else bad.read_bytes()[:600])
    says = "is not an image that can be read; expected" if damage == "text" else "cannot be read as an image: "
    with pytest.raises(DataError, match=f"{bad}: {says}"):
        load_folder(root)


def test_all_bad_files_of_a_folder_are_listed(tmp_path: Path) -> None:
    """Files that are no images, that are cut, or that have another size: one message names each of a kind."""
    root = make_folder(tmp_path / "data", size=64)
    cut = [root / "train" / "cat" / "1.png", root / "test" / "dog" / "3.png"]
    text = [root / "train" / "cat" / "0.png", root / "test" / "cat" / "2.png"]
    odd = [root / "train" / "dog" / "1.png", root / "test" / "dog" / "0.png"]
    for bad, spoil in ((cut, lambda path: path.write_bytes(path.read_bytes()[:600])), (odd, _enlarge)):
        for path in bad:
            spoil(path)
    whole = {path: path.read_bytes() for path in text}
    for path in text:
        path.write_text("no image")
    for bad, repair in ((text, lambda path: path.write_bytes(whole[path])), (odd, _enlarge), (cut, None)):
        with pytest.raises(DataError, match="2 of 16 images cannot be used:\n") as caught:
            load_folder(root)
        assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == list(map(str, bad))
        for path in bad if repair else ():
            repair(path)


def _enlarge(path: Path) -> None:
    side = 65 + 64 - Image.open(path).width
    Image.effect_noise((side, side), 50).save(path)


def test_a_long_list_of_problems_is_cut(tmp_path: Path) -> None:
    """Twenty are named, the others counted."""
    text = listed([f"problem {number}" for number in range(1000)], "all wrong")
    assert text.startswith("all wrong:\n  problem 0\n  problem 1\n")
    assert text.endswith("problem 19\n  ... and 980 more")


def test_images_are_cropped_in_training_as_infer_does(tmp_path: Path) -> None:
    """`resize` says what becomes of wide images: the square in the middle, or all of it; the cache keeps them apart."""
    root = make_folder(tmp_path / "data")
    for path in root.rglob("*.png"):
        wide = np.zeros((8, 16), np.uint8)
        wide[:, 4:12] = 200
        Image.fromarray(wide).save(path)
    assert load_folder(root, image_size=8, resize="crop").test.images.unique().tolist() == [200]
    assert len(load_folder(root, image_size=8).test.images.unique()) > 1


def test_a_class_of_one_image_cannot_be_split(tmp_path: Path) -> None:
    """The class is named by its folder."""
    root = make_folder(tmp_path / "data")
    for index in range(3):
        (root / "train" / "dog" / f"{index}.png").unlink()
    with pytest.raises(DataError, match="class 'dog' has one training image"):
        load_folder(root)


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_is_a_window_of_the_padded_image(reflect: bool, flip: bool) -> None:
    """Each image comes out as one of the windows that padding, cutting and mirroring can give; some move."""
    x = torch.randint(0, 256, (40, 2, 5, 5), generator=torch.Generator().manual_seed(0)).byte()
    moved = crop_and_flip(x, 2, reflect, flip, torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(x.float(), (2,) * 4, "reflect" if reflect else "constant").byte()
    for image, wide in zip(moved, padded, strict=True):
        windows = [wide[:, i : i + 5, j : j + 5] for i in range(5) for j in range(5)]
        windows += [w.flip(2) for w in windows] if flip else []
        assert any(torch.equal(image, w) for w in windows)
    assert not torch.equal(moved, x)
    assert torch.equal(moved, crop_and_flip(x, 2, reflect, flip, torch.Generator().manual_seed(1)))


def test_autoaugment_is_driven_by_the_generator() -> None:
    """The same generator gives the same images, and the global generator is left alone."""
    x = torch.randint(0, 256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    state = torch.get_rng_state()
    first, second = (auto_augment("cifar10")(x, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, x)
    assert first.shape == x.shape
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("policy", ["cifar10", "imagenet", "svhn"])
def test_autoaugment_of_a_batch_is_torchvisions_of_each_image(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same draws every image comes out as torchvision's own transform makes it alone."""
    x = torch.randint(0, 256, (150, 3, 9, 8), generator=torch.Generator().manual_seed(0)).byte()
    found = auto_augment(policy)(x, torch.Generator().manual_seed(1))
    transform, generator = auto_augment(policy)._transform, torch.Generator().manual_seed(1)
    chosen = torch.randint(len(transform._policies), (len(x),), generator=generator).tolist()
    draws = [[torch.rand(len(x), generator=generator) for _ in ("chance", "sign")] for _ in range(2)]
    feed: list[torch.Tensor] = []
    monkeypatch.setattr(torch, "rand", lambda *_: feed.pop(0))
    for image, number in enumerate(chosen):
        for (name, probability, _), (chance, sign) in zip(transform._policies[number], draws, strict=True):
            applied = chance[image] <= probability
            feed += (
                [chance[image], sign[image]] if applied and transform._AUGMENTATION_SPACE[name][1] else [chance[image]]
            )
        monkeypatch.setattr(torch, "randint", lambda *_, number=number: torch.tensor(number))
        assert torch.equal(found[image], transform(x[image]))
        assert not feed


@pytest.mark.parametrize("autoaugment", ["none", "svhn"])
def test_an_epoch_has_every_image_once(autoaugment: str) -> None:
    """Batches are of nearly equal size, images and labels in the order asked for, augmented together or not; begun in
    the middle they are the same."""
    images = torch.arange(50).byte()[:, None, None, None].expand(50, 1, 4, 4).contiguous()
    split = Split(images, torch.arange(50))
    data = ImageData("numbers", tuple(map(str, range(50))), split, split, split, (0.0,), (1 / 255,))
    augmentation = Augmentation(autoaugment=autoaugment)  # type: ignore[arg-type]
    batches = Batches(data, Recipe(epochs=1, batch_size=4, augmentation=augmentation), torch.device("cpu"))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    found = list(batches.of(order, 0))
    for batch, again in zip(found[5:], batches.of(order, 0, start=5), strict=True):
        assert torch.equal(batch.images, again.images)
        assert torch.equal(batch.labels, again.labels)
    assert [batch.size for batch in found] == [4] * 11 + [3] * 2
    assert torch.equal(torch.cat([batch.labels for batch in found]), order)
    if autoaugment == "none":
        pixels = torch.cat([batch.images[:, 0, 0, 0] for batch in found])
        torch.testing.assert_close(pixels, order.float(), rtol=0, atol=1e-4)
