"""How a network is trained: a document, and the named recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from sepnas.errors import SpecError
from sepnas.spec.document import Document, Part, few
from sepnas.spec.figures import MAX_SIDE, Text

Schedule = Literal["one-cycle", "step", "cosine"]
Precision = Literal["fp32", "bf16"]
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class Augmentation(Part):
    """What is done to each training image: a shifted crop of ``crop_padding`` pixels, a mirror image, AutoAugment.

    Pixels from beyond the border are black (``zero``) or mirrored (``reflect``).
    """

    crop_padding: Annotated[int, Field(ge=0, le=MAX_SIDE)] = 0
    padding: Literal["zero", "reflect"] = "zero"
    flip: bool = False
    autoaugment: Literal["none", "cifar10", "imagenet", "svhn"] = "none"


class Distillation(Part):
    """What is learned from teachers beside the labels.

    ``weight`` is the share of the loss that their softened answers have, at ``temperature`` (arXiv 1503.02531);
    ``features`` weighs how far the maps of attention after each stage are from theirs (arXiv 1612.03928).
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
    """Gradient descent in epochs of the whole training split.

    ``sgd`` has momentum, and weight decay as part of the gradient; ``sgdw`` and ``adamw`` decay apart from it
    (arXiv 1711.05101), by learning rate times ``weight_decay`` a step: of momentum 0.9 a tenth of what ``sgd`` comes to
    with the same number. ``momentum`` is AdamW's first beta; ``nesterov`` is for the other two. Without ``decay_norms``
    weights of one dimension, those of norms, biases and merges, do not decay. ``learning_rate`` is the highest.
    ``one-cycle`` rises to it for the first 30 % of the steps and falls along a cosine, ``cosine`` only falls, ``step``
    multiplies by ``milestone_factor`` after each epoch of ``milestones``.
    ``ema_decay`` above 0 keeps an average of the weights, which is what is validated and kept; it follows faster at
    first. ``mixup`` (arXiv 1710.09412) and ``cutmix`` (arXiv 1905.04899) are the alphas of their beta distributions,
    0 for neither; with both, each batch draws one of them. ``distillation`` says how a training with teachers
    (``sepnas train --teacher``) learns from them; None is its defaults.
    ``device_dropout`` and ``message_dropout`` are the shares of devices and messages that each training image is
    computed without (:mod:`sepnas.train.dropout`), so that the network learns to lose them.
    """

    format_name: ClassVar[str] = "sepnas.recipe"

    name: Text = "custom"
    optimizer: Literal["sgd", "sgdw", "adamw"] = "sgd"
    epochs: Annotated[int, Field(ge=1, le=1_000_000)]
    batch_size: Annotated[int, Field(ge=1, le=1 << 20)] = 128
    learning_rate: Annotated[float, Field(gt=0, le=1e6)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: NotNegative = 5e-4
    decay_norms: bool = True
    ema_decay: Probability = 0.0
    schedule: Schedule = "one-cycle"
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

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and not self.momentum and self.optimizer != "adamw":
            raise ValueError("`nesterov` needs a `momentum` above 0")
        if self.milestones and self.schedule != "step":
            raise ValueError(f"`milestones` belong to the schedule 'step', not to '{self.schedule}'")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"`milestones` must rise, got [{few(self.milestones, 40)}]")
        return self

    def to_data(self) -> dict[str, Any]:
        """Plain data; later switches that are off are left out: what was written before there were any is the same
        run."""
        off = {name: type(self).model_fields[name].default for name in _LATER}
        return {key: value for key, value in super().to_data().items() if key not in off or value != off[key]}

    def changed(self, where: str, **values: float | None) -> Recipe:
        """The same but for the values that are not None; :class:`SpecError` opens with ``where``."""
        return Recipe.from_data(self.to_data() | {k: v for k, v in values.items() if v is not None}, where)

    def remark(self) -> str | None:
        """What it means that the training ends before the last of the ``milestones``; None where it does not."""
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
        """The same with training images mirrored, or not; None leaves it."""
        if flip is None:
            return self
        return self.model_copy(update={"augmentation": self.augmentation.model_copy(update={"flip": flip})})

    def steps_per_epoch(self, num_images: int) -> int:
        """Batches that take every image once; the last may be smaller."""
        return -(-num_images // self.batch_size)


@dataclass(frozen=True)
class RecipeChanges:
    """Values that replace those of a recipe; None keeps the recipe's own."""

    epochs: int | None = None
    learning_rate: float | None = None
    device_dropout: float | None = None
    flip: bool | None = None

    def applied_to(self, recipe: Recipe, where: str) -> Recipe:
        """The changed recipe; raises :class:`SpecError`, which opens with ``where``."""
        changed = recipe.changed(
            where, epochs=self.epochs, device_dropout=self.device_dropout, learning_rate=self.learning_rate
        )
        return changed.mirroring(self.flip)


NO_CHANGES = RecipeChanges()


_LATER = (
    "device_dropout", "message_dropout", "decay_norms", "ema_decay", "mixup", "cutmix", "distillation",
)  # fmt: skip

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
        # chosen on validation images, each switch by itself (experiments/cifar100-cpu)
        Recipe(
            name="cifar-fast",
            optimizer="adamw",
            epochs=20,
            batch_size=128,
            learning_rate=4e-3,
            weight_decay=0.05,
            decay_norms=False,
            label_smoothing=0.1,
            augmentation=Augmentation(crop_padding=4, padding="reflect", flip=True),
            precision="bf16",
            channels_last=True,
        ),
        # what supernets learn by, and what cifar-fast is measured against
        Recipe(
            name="cifar-sgd",
            epochs=20,
            batch_size=128,
            learning_rate=0.2,
            label_smoothing=0.1,
            augmentation=Augmentation(crop_padding=4, padding="reflect", flip=True),
            precision="bf16",
            channels_last=True,
        ),
        # half of the paper's epochs, and what helps long trainings of narrow networks; separable ones, whose devices
        # each have a part of the gradient, want larger steps (experiments/cifar100-cpu)
        Recipe(
            name="modern",
            epochs=100,
            batch_size=128,
            learning_rate=0.4,
            decay_norms=False,
            ema_decay=0.999,
            label_smoothing=0.1,
            augmentation=Augmentation(crop_padding=4, padding="reflect", flip=True, autoaugment="cifar10"),
            cutmix=0.5,
            precision="bf16",
            channels_last=True,
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


def default_recipe(data: str) -> Recipe:
    """The one for a data set where none is named.

    Images of a folder are not mirrored: of arrows, letters or signs a mirror image is of another class.
    """
    named = RECIPES["digits" if data == "digits" else "cifar-fast"]
    return named.mirroring(False) if data.startswith("folder:") else named


def load_recipe(name: str) -> Recipe:
    """A named recipe, or the one of a file; :class:`SpecError` says what there is."""
    if name in RECIPES:
        return RECIPES[name]
    if name.endswith((".yaml", ".yml", ".json")):
        return Recipe.load(name)
    raise SpecError(f"unknown recipe {name!r}; allowed: {', '.join(RECIPES)}, or a recipe file (.yaml, .json)")
