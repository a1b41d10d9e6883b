"""Image models by kind: built from a recipe, or loaded from a folder, of which nothing but safetensors is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModel

from finetune.errors import ModelError, listed
from finetune.hub_models import find_model
from finetune.image.drawer import Drawer, ImageConfig
from finetune.image.gan import Gan, GanConfig
from finetune.image.style import Style, StyleConfig
from finetune.image.vae import Vae, VaeConfig
from finetune.model_folder import PICKLED_SUFFIXES, check_model_folder, misshapen_tensors
from finetune.pretrained import loading, refuse_differences, refuse_foreign_weights
from finetune.recipe_image import ImageKind, ImageModel, Images

CLASSES: dict[ImageKind, tuple[type[ImageConfig], type[Drawer]]] = {
    "vae": (VaeConfig, Vae),
    "gan": (GanConfig, Gan),
    "style": (StyleConfig, Style),
}
for _config, _network in CLASSES.values():
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _network, exist_ok=True)


def build_image_model(
    model: ImageModel,
    *,
    images: Images,
    labels: Sequence[str],
    condition_size: int = 0,
    seed: int,
    base: Path = Path(),
) -> Drawer:
    """The model of a recipe: new, with weights that depend on `seed` alone, or `model.name` to go on from.

    `labels` are the names of the classes, which may be there without being asked for; `condition_size` is the length
    of the text embeddings of condition 'caption'. Raises ModelError when the named model draws other pictures.
    """
    wanted: dict[str, Any] = {
        "size": images.size,
        "channels": 1 if images.channels == "grey" else 3,
        "condition": images.condition,
        "labels": len(labels) if images.condition == "label" else 0,
        "condition_size": condition_size if images.condition == "caption" else 0,
    }
    if model.name is not None:
        network = load_image_model(find_model(model.name, base=base, revision=model.revision).path)
        _refuse_other_pictures(network, wanted, labels, where=model.name)
        return network
    kind = next(kind for kind in CLASSES if getattr(model, kind) is not None)
    config_class, network_class = CLASSES[kind]
    settings = getattr(model, kind).model_dump()
    own = {key: value for key, value in settings.items() if key in config_class.__dataclass_fields__}
    names = dict(enumerate(labels))
    config = config_class(**wanted, **own, id2label=names, label2id={name: number for number, name in names.items()})
    torch.manual_seed(seed)
    return _laid_out(network_class(config))


def load_image_model(folder: str | Path) -> Drawer:
    """A finished image model, in evaluation mode; every weight comes from the folder.

    Raises ModelError for a pickle, for a folder of something else, and for a missing, left-over, misshapen or
    non-finite weight.
    """
    path = Path(folder).expanduser()
    if path.suffix in PICKLED_SUFFIXES or path.is_file():
        raise ModelError(
            str(path), "is a single file, and a pickle runs whatever its author put into it; nothing is unpickled here",
            "Name a folder with config.json and model.safetensors.",
        )  # fmt: skip
    check_model_folder(path)
    with loading(path):
        settings, _ = ImageConfig.get_config_dict(path)
    known = {config.model_type: (config, network) for config, network in CLASSES.values()}
    if settings.get("model_type") not in known:
        what = f"is no image model: model_type '{settings.get('model_type')}'. Known: {listed(known)}"
        raise ModelError(str(path), what, "Name a model that task image-generation has trained.")
    config_class, network_class = known[settings["model_type"]]
    with loading(path):
        config = config_class.from_pretrained(path)
        with torch.device("meta"):
            expected = {name: tuple(tensor.shape) for name, tensor in network_class(config).state_dict().items()}
    refuse_differences(path, misshapen_tensors(path, expected=expected, prefix=""))
    with loading(path):
        loaded = network_class.from_pretrained(
            path, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    network, info = cast(tuple[Drawer, dict[str, list[str]]], loaded)
    refuse_foreign_weights(
        path, config, missing=sorted(info["missing_keys"]), unexpected=sorted(info["unexpected_keys"])
    )
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ModelError(str(path), f"{name} holds NaN or infinity", "Its training diverged: use another model.")
    return _laid_out(network)


def _laid_out(network: Drawer) -> Drawer:
    """Channels last in memory, with which convolutions are faster; the numbers are the same."""
    torch.nn.Module.to(network, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _refuse_other_pictures(network: Drawer, wanted: dict[str, Any], labels: Sequence[str], *, where: str) -> None:
    differ = [
        f"image.{key} is {value}, the model has {getattr(network.config, key)}"
        for key, value in wanted.items()
        if getattr(network.config, key) != value
    ]
    names = [str(name) for name in (network.config.id2label or {}).values()]
    if not differ and wanted["condition"] == "label" and names != list(labels):
        differ = [f"the labels are {listed(labels)}, the model has {listed(names)}"]
    if differ:
        raise ModelError(where, f"draws other pictures: {'; '.join(differ)}", "Adapt the recipe, or build a new model.")
