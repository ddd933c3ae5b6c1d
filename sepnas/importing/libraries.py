"""Networks of timm and torchvision by name, with what their configuration says of images and classes."""

from __future__ import annotations

import importlib
import inspect
import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, get_args

import torch
from torch import nn

from sepnas.errors import ImportFailedError
from sepnas.importing.found import FoundNetwork, Shape
from sepnas.partition.graph import MAX_CROP, NetworkTraits
from sepnas.partition.trace.refusals import first_line
from sepnas.spec.preparation import Interpolation
from sepnas.train.vision import import_timm, import_torchvision

_FRAMES = 16
"""Frames of a clip, for video networks that do not say how many they take."""


def from_timm(name: str, pretrained: bool) -> FoundNetwork:
    """A network of timm; :class:`ImportFailedError` for an unknown name, or weights that cannot be loaded."""
    source = f"timm:{name}"
    import_timm("models")
    timm: Any = importlib.import_module("timm")
    plain = name.partition(".")[0]
    if not timm.is_model(plain):
        raise unknown_name(source, name, timm.list_models())
    module = _made(source, pretrained, lambda: timm.create_model(name, pretrained=pretrained))
    data: Any = importlib.import_module("timm.data")
    config = {**(getattr(module, "pretrained_cfg", None) or {}), **data.resolve_model_data_config(module)}
    size: Shape = tuple(config["input_size"])
    return FoundNetwork(
        name, source, module, shapes=(size,), traits=_traits(_timm_classes(data, config), config, size[1:])
    )


def _timm_classes(data: Any, config: dict[str, Any]) -> list[str]:
    """The labels of the data set that the network was trained on, if timm has them."""
    if names := config.get("label_names"):
        described = config.get("label_descriptions") or {}
        return [str(described.get(name, name)) for name in names]
    subset = data.infer_imagenet_subset(config)
    found = [str(label) for label in data.ImageNetInfo(subset).label_descriptions()] if subset else []
    return found if len(found) == config["num_classes"] else []


def from_torchvision(name: str, pretrained: bool) -> FoundNetwork:
    """A network of torchvision; errors are those of :func:`from_timm`."""
    source, models = f"torchvision:{name}", import_torchvision("models")
    if name not in models.list_models():
        raise unknown_name(source, name, models.list_models())
    known = _default_weights(models, name)
    module = _made(source, pretrained, lambda: _torchvision_module(models, name, known, pretrained))
    config = _config_of(known)
    side = getattr(module, "image_size", config.get("side", 224))
    shape: Shape = (3, *((config["frames"],) if "frames" in config else ()), side, side)
    return FoundNetwork(
        name, source, module, shapes=(shape,), traits=_traits(config.get("classes", ()), config, (side, side))
    )


def _default_weights(models: Any, name: str) -> Any:
    try:
        return models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError):
        return None


def _torchvision_module(models: Any, name: str, known: Any, pretrained: bool) -> nn.Module:
    if pretrained and known is None:
        raise ValueError("torchvision has no pretrained weights of it")
    # what is not asked for would be downloaded
    parameters = inspect.signature(inspect.unwrap(models.get_model_builder(name))).parameters
    options: dict[str, Any] = {"weights_backbone": None} if "weights_backbone" in parameters else {}
    if pretrained and name.startswith("vit_"):
        options["image_size"] = known.meta["min_size"][0]
    if pretrained and {"aux_loss", "aux_logits"} & parameters.keys():
        options["aux_loss" if "aux_loss" in parameters else "aux_logits"] = True
    module: nn.Module = models.get_model(name, weights=None, **options)
    if pretrained:
        # torchvision itself would unpickle whatever the file holds
        state = torch.hub.load_state_dict_from_url(known.url, map_location="cpu", check_hash=True, weights_only=True)
        module.load_state_dict(state)
    return module


def _config_of(known: Any) -> dict[str, Any]:
    """What torchvision's weights say of images and classes, whether they are loaded or not."""
    if known is None:
        return {}
    found: dict[str, Any] = {"classes": known.meta.get("categories") or ()}
    transforms = known.transforms()
    for ours, theirs in (("mean", "mean"), ("std", "std")):
        found[ours] = tuple(getattr(transforms, theirs, None) or ())
    crop, resize = (_side(getattr(transforms, name, None)) for name in ("crop_size", "resize_size"))
    found["side"] = crop or resize or 224
    if crop and resize:
        found["crop_pct"] = _share(crop, resize)
    found["interpolation"] = getattr(getattr(transforms, "interpolation", None), "value", None)
    if type(transforms).__name__ == "VideoClassification":
        found["frames"] = max(_FRAMES, known.meta.get("min_temporal_size") or 0)
    return found


def _side(value: Any) -> int:
    """A size that is a number or a list of them."""
    return int(value[0]) if isinstance(value, list | tuple) and value else int(value or 0)


def _share(crop: int, resize: int) -> float:
    """The share of the scaled side that is kept, of which the scaled side is found again by rounding down."""
    share = crop / resize
    return share if math.floor(crop / share) == resize else math.nextafter(share, 0)


def _traits(classes: Sequence[str], config: dict[str, Any], size: Shape) -> NetworkTraits:
    interpolation, crop = config.get("interpolation"), config.get("crop_pct")
    squashed = config.get("crop_mode") == "squash"
    known = interpolation in get_args(Interpolation) and config.get("crop_mode") in (None, "center", "squash")
    return NetworkTraits(
        classes=tuple(" ".join(label.split())[:2000] for label in classes if label.strip()),
        mean=tuple(map(float, config.get("mean") or ())),
        std=tuple(map(float, config.get("std") or ())),
        size=(size[-2], size[-1]) if len(size) >= 2 else None,
        crop=float(crop) if crop and 0 < crop <= MAX_CROP else None,
        interpolation=interpolation if known else None,
        fit="stretch" if squashed else "cover",
    )


def _made(source: str, pretrained: bool, make: Any) -> nn.Module:
    """The module that a library makes; its errors, also those of a download, become ours."""
    try:
        with _quiet():
            module: nn.Module = make()
            return module
    except Exception as error:  # libraries raise whatever they like
        if not pretrained:
            raise ImportFailedError(f"{source}: cannot be made: {first_line(error)}") from error
        why = "there is no connection" if _is_unconnected(error) else first_line(error)
        raise ImportFailedError(f"{source}: its pretrained weights cannot be loaded: {why}; {_ADVICE}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings and the log of each try of a download from the terminal: the error says enough."""
    logs = [logging.getLogger(name) for name in ("huggingface_hub", "timm")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


_ADVICE = "download them where there is a connection, and give the file with --weights FILE"
_CONNECTIONS = re.compile(r"(Connect\w*|URL|Timeout\w*|OfflineMode\w*|LocalEntryNotFound|Proxy|gaierror)(Error)?")


def _is_unconnected(error: BaseException | None) -> bool:
    """Whether this error, or one that it comes from, says that a server was not reached."""
    seen = 0
    while error is not None and seen < 20:
        if _CONNECTIONS.fullmatch(type(error).__name__) or isinstance(error, ConnectionError | TimeoutError):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def unknown_name(source: str, name: str, known: Sequence[str]) -> ImportFailedError:
    """An error with the names that are most like the one that was given."""
    near = get_close_matches(name, known, 5, 0.5)
    hint = f"; near are {', '.join(near)}" if near else ""
    return ImportFailedError(f"{source}: there is no network of this name{hint}")
