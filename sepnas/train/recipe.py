"""Training recipes: the document, and the named recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from typing_extensions import Self

from sepnas.errors import SpecError
from sepnas.spec.arguments import MAX_COUNT, check_integer, check_number
from sepnas.spec.document import Document, Part, few, short
from sepnas.spec.figures import MAX_SIDE, Text

Schedule = Literal["one-cycle", "step", "cosine"]
Precision = Literal["fp32", "bf16"]
HeadChoice = Literal["keep", "new"]
"""Whether a network keeps the layer that makes its class scores, or gets a new one."""
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class Augmentation(Part):
    """Augmentation of each training image: a crop, mirroring, AutoAugment.

    ``crop_padding`` shifts the image by up to as many pixels; pixels beyond the border are black (``zero``) or mirrored
    (``reflect``). ``crop_area`` below 1 scales a random crop of at least this share of the image to the image's size
    (the random resized crop of arXiv 1409.4842), which suits large images. With ``flip`` half of the images are
    mirrored at random; with ``alternate_flips`` too, each one in every second epoch.
    """

    crop_padding: Annotated[int, Field(ge=0, le=MAX_SIDE)] = 0
    crop_area: Annotated[float, Field(gt=0, le=1)] = 1.0
    padding: Literal["zero", "reflect"] = "zero"
    flip: bool = False
    alternate_flips: bool = False
    autoaugment: Literal["none", "cifar10", "imagenet", "svhn"] = "none"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.crop_padding and self.crop_area < 1:
            raise ValueError(
                f"`crop_padding` {self.crop_padding} and `crop_area` {self.crop_area:g} exclude each other"
            )
        return self

    @property
    def alternates(self) -> bool:
        """Whether each image is mirrored in every second epoch."""
        return self.flip and self.alternate_flips

    @model_serializer(mode="wrap")
    def _leave_out_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without newer options that are off, so that older files still describe the same run."""
        data: dict[str, Any] = handler(self)
        off = {"crop_area": 1, "alternate_flips": False}
        return {key: value for key, value in data.items() if key not in off or value != off[key]}


class Distillation(Part):
    """Distillation from teachers, in addition to the labels.

    ``weight`` is the share of the loss from the teachers' softened outputs at ``temperature`` (arXiv 1503.02531);
    ``features`` is the weight of the distance between attention maps after each stage (arXiv 1612.03928); in imported
    and separated networks, between feature maps (:class:`sepnas.train.feature_gap.FeatureGap`).
    """

    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    temperature: Annotated[float, Field(gt=0, le=1e6)] = 2.0
    features: NotNegative = 0.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.weight and not self.features:
            raise ValueError("`weight` and `features` are both 0: nothing would be learned from the teachers")
        return self


class Recipe(Document):
    """Gradient descent in epochs over the whole training split.

    Optimizers: ``sgd`` adds weight decay to the gradient; ``sgdw`` and ``adamw`` decouple it (arXiv 1711.05101) and
    decay by learning rate times ``weight_decay`` per step. With momentum 0.9 this is a tenth of the decay of ``sgd``
    with the same value. ``muon`` trains convolutions behind the first with orthogonalised momentum
    (:mod:`sepnas.train.muon`) and everything else with AdamW at ``other_learning_rate``. ``momentum`` is AdamW's first
    beta; ``nesterov`` applies to the others. Without ``decay_norms``, one-dimensional weights (norms, biases, merges)
    do not decay.

    Schedules: ``learning_rate`` is the peak. ``one-cycle`` rises to it over the first 30 % of the steps and then falls
    along a cosine; ``cosine`` only falls, after a linear rise over the share ``warmup`` of the steps; ``step``
    multiplies by ``milestone_factor`` after each of ``milestones``.

    An imported network, which was trained before, may learn slower near its input: ``input_rate`` is the factor of the
    learning rate in its first layer, which rises from layer to layer, in equal ratios, to 1 in the last one.
    ``head_rate`` is the factor of a new head. In any network, ``norm_rate`` is a further factor for one-dimensional
    weights (norms, biases, merges; not learned scales of messages): airbench has 64 for biases of norms (arXiv
    2404.00498).

    ``ema_decay`` above 0 validates and saves a moving average of the weights, which adapts faster at first. ``mixup``
    (arXiv 1710.09412) and ``cutmix`` (arXiv 1905.04899) are the alphas of their beta distributions, 0 for off; with
    both on, each batch draws one of them. ``distillation`` configures training with teachers
    (``sepnas train --teacher``); None means the defaults. ``device_dropout`` and ``message_dropout`` are the shares of
    devices and messages lost per training image (:mod:`sepnas.train.dropout`), so that the network learns to tolerate
    losses. ``whiten_stem`` sets the first convolution to whiten patches of the training images, and leaves it so
    (:mod:`sepnas.train.whiten`). ``first_size`` below 1 is the share of their side to which training images are scaled
    in the first epoch; they grow to their full size in equal steps (:mod:`sepnas.train.sides`, arXiv 2104.00298).
    """

    format_name: ClassVar[str] = "sepnas.recipe"

    name: Text = "custom"
    optimizer: Literal["sgd", "sgdw", "adamw", "muon"] = "sgd"
    epochs: Annotated[int, Field(ge=1, le=1_000_000)]
    batch_size: Annotated[int, Field(ge=1, le=1 << 20)] = 128
    learning_rate: Annotated[float, Field(gt=0, le=1e6)] = 0.1
    other_learning_rate: Annotated[float, Field(gt=0, le=1e6)] = 4e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: NotNegative = 5e-4
    decay_norms: bool = True
    ema_decay: Probability = 0.0
    schedule: Schedule = "one-cycle"
    warmup: Probability = 0.0
    input_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    head_rate: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    norm_rate: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    milestone_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    augmentation: Augmentation = Augmentation()
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    distillation: Distillation | None = None
    precision: Precision = "fp32"
    channels_last: bool = False
    device_dropout: Probability = 0.0
    message_dropout: Probability = 0.0
    whiten_stem: bool = False
    first_size: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and not self.momentum and self.optimizer != "adamw":
            raise ValueError("`nesterov` needs a `momentum` above 0")
        if self.milestones and self.schedule != "step":
            raise ValueError(f"`milestones` belong to the schedule 'step', not to '{self.schedule}'")
        if self.warmup and self.schedule != "cosine":
            raise ValueError(f"`warmup` belongs to the schedule 'cosine', not to '{self.schedule}'")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"`milestones` must rise, got [{few(self.milestones, 40)}]")
        return self

    def to_data(self) -> dict[str, Any]:
        """Plain data, without newer options that are off, so that older files still describe the same run."""
        off = {name: type(self).model_fields[name].default for name in _LATER}
        return {key: value for key, value in super().to_data().items() if key not in off or value != off[key]}

    def changed(self, where: str, **values: float | None) -> Recipe:
        """A copy with the values that are not None; raises :class:`SpecError`, which starts with ``where``."""
        return Recipe.from_data(self.to_data() | {k: v for k, v in values.items() if v is not None}, where)

    def remark(self) -> str | None:
        """A warning if the training ends before the last of the ``milestones``, else None."""
        reached = [epoch for epoch in self.milestones if epoch < self.epochs]
        if len(reached) == len(self.milestones):
            return None
        told = ", ".join(map(str, self.milestones))
        falls = f"it falls {len(reached)} of {len(self.milestones)} times" if reached else "it never falls"
        return (
            f"recipe '{self.name}': the learning rate is to fall after epochs {told}, but there are {self.epochs}: "
            f"{falls}, which costs accuracy; take another recipe (cifar-fast), or a copy with earlier `milestones`"
        )

    def mirroring(self, flip: bool | None) -> Recipe:
        """A copy with mirroring of training images on or off; None keeps the setting."""
        if flip is None:
            return self
        return self.model_copy(update={"augmentation": self.augmentation.model_copy(update={"flip": flip})})

    def steps_per_epoch(self, num_images: int) -> int:
        """The number of batches that cover every image once; sizes may differ by one."""
        return -(-num_images // self.batch_size)


@dataclass(frozen=True)
class RecipeChanges:
    """Values that override a recipe; None keeps the recipe's value. Raises :class:`SpecError` outside their ranges."""

    epochs: int | None = None
    learning_rate: float | None = None
    device_dropout: float | None = None
    flip: bool | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None:
            check_integer("epochs", self.epochs, 1, MAX_COUNT)
        for name, value, highest in (
            ("learning_rate", self.learning_rate, 1e6),
            ("device_dropout", self.device_dropout, 1),
        ):
            if value is not None:
                check_number(name, value, 0, highest)
        if self.flip is not None and not isinstance(self.flip, bool):
            raise SpecError(f"`flip` must be True, False or None, got {short(self.flip)}")

    def applied_to(self, recipe: Recipe, where: str) -> Recipe:
        """The changed recipe; raises :class:`SpecError`, which starts with ``where``."""
        changed = recipe.changed(
            where, epochs=self.epochs, device_dropout=self.device_dropout, learning_rate=self.learning_rate
        )
        return changed.mirroring(self.flip)


NO_CHANGES = RecipeChanges()


_LATER = (
    "device_dropout", "message_dropout", "decay_norms", "ema_decay", "mixup", "cutmix", "distillation",
    "other_learning_rate", "whiten_stem", "warmup", "input_rate", "head_rate", "norm_rate",
    "first_size",
)  # fmt: skip

_COLOUR_IMAGES: dict[str, Any] = {
    "batch_size": 128,
    "label_smoothing": 0.1,
    "augmentation": Augmentation(crop_padding=4, padding="reflect", flip=True),
    "precision": "bf16",
    "channels_last": True,
}

LARGE_SIDE = 128
"""Pixels a side from which images are large: they are trained with their own recipe."""

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="digits",
            epochs=20,
            batch_size=32,
            learning_rate=0.1,
            label_smoothing=0.1,
            augmentation=Augmentation(crop_padding=1),
            channels_last=True,
        ),
        # tuned on validation images, one option at a time (experiments/cifar100-cpu)
        Recipe(
            name="cifar-fast",
            optimizer="adamw",
            epochs=20,
            learning_rate=4e-3,
            weight_decay=0.05,
            decay_norms=False,
            **_COLOUR_IMAGES,
        ),
        # the best in few epochs (experiments/cifar100-cpu), for convolutions whose first layer reads the image
        Recipe(
            name="cifar-muon",
            optimizer="muon",
            epochs=20,
            learning_rate=0.04,
            weight_decay=0.05,
            decay_norms=False,
            whiten_stem=True,
            **_COLOUR_IMAGES,
        ),
        # the recipe of supernets, and the baseline of cifar-fast
        Recipe(
            name="cifar-sgd",
            epochs=20,
            learning_rate=0.2,
            **_COLOUR_IMAGES,
        ),
        # as cifar-fast, with half of the batch and of the rate, and the crop of large images
        Recipe(
            name="large-images",
            optimizer="adamw",
            epochs=20,
            learning_rate=2e-3,
            weight_decay=0.05,
            decay_norms=False,
            **_COLOUR_IMAGES | {"batch_size": 64, "augmentation": Augmentation(crop_area=0.35, flip=True)},
        ),
        # for imported networks that were trained before
        Recipe(
            name="finetune",
            optimizer="adamw",
            epochs=5,
            learning_rate=1e-3,
            weight_decay=0.05,
            decay_norms=False,
            schedule="cosine",
            warmup=0.1,
            input_rate=0.3,
            head_rate=3.0,
            **_COLOUR_IMAGES
            | {"batch_size": 64, "augmentation": Augmentation(crop_area=0.5, flip=True, alternate_flips=True)},
        ),
        # for separated networks, which learn from the network that they were
        Recipe(
            name="separate",
            optimizer="adamw",
            epochs=3,
            learning_rate=2e-4,
            weight_decay=0.05,
            decay_norms=False,
            schedule="cosine",
            warmup=0.1,
            distillation=Distillation(weight=0.9, temperature=2.0),
            **_COLOUR_IMAGES
            | {"batch_size": 64, "augmentation": Augmentation(crop_area=0.8, flip=True, alternate_flips=True)},
        ),
        # half of the paper's epochs, with options that help long trainings of narrow networks; separable networks split
        # the gradient over devices and need larger steps (experiments/cifar100-cpu)
        Recipe(
            name="modern",
            epochs=100,
            learning_rate=0.4,
            decay_norms=False,
            ema_decay=0.999,
            cutmix=0.5,
            **_COLOUR_IMAGES
            | {"augmentation": Augmentation(crop_padding=4, padding="reflect", flip=True, autoaugment="cifar10")},
        ),
        # arXiv 2111.02489; plain momentum as in the authors' public experiments
        Recipe(
            name="paper",
            epochs=200,
            batch_size=128,
            learning_rate=0.1,
            nesterov=False,
            schedule="step",
            milestones=(50, 100, 150),
            augmentation=Augmentation(crop_padding=4, flip=True, autoaugment="cifar10"),
        ),
    )
}


def default_recipe(data: str, image_size: int | None = None) -> Recipe:
    """The default recipe for a data set whose images have ``image_size`` pixels a side (None: unknown).

    Digits are not mirrored, nor are images of a folder: a mirrored arrow, letter or sign may belong to another class.
    """
    small = "digits" if data == "digits" else "cifar-fast"
    named = RECIPES["large-images" if (image_size or 0) >= LARGE_SIDE else small]
    return named.mirroring(False) if may_not_mirror(data) else named


def may_not_mirror(data: str) -> bool:
    """Whether mirroring the images of a data set may change their class."""
    return data == "digits" or data.startswith("folder:")


def load_recipe(name: str) -> Recipe:
    """A named recipe, or one from a file; raises :class:`SpecError` that lists the names."""
    if name in RECIPES:
        return RECIPES[name]
    if name.endswith((".yaml", ".yml", ".json")):
        return Recipe.load(name)
    raise SpecError(f"unknown recipe {name!r}; allowed: {', '.join(RECIPES)}, or a recipe file (.yaml, .json)")
