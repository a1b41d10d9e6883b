"""What the card of an image model says and others do not: how to draw with it, and whether it copies."""

from __future__ import annotations

from finetune.data_card import escaped
from finetune.report.card_facts import Card
from finetune.report.image_parts import is_suspicious
from finetune.runs import Json

MOST_LABELS = 100
DRAW = """from finetune.image.networks import load_image_model

model = load_image_model("PATH")  # safetensors only; nothing is unpickled
images = model.draw(model.latents(16, seed=0){condition})  # (16, {channels}, {size}, {size}), from 0 to 1"""


def how_to_draw(card: Card) -> list[str]:
    """Code for this package, because no other knows these networks, and the commands."""
    image, condition = card.model.get("image") or {}, _condition(card)
    asked = {
        "label": ", torch.zeros(16, dtype=torch.long)",
        "caption": ', torch.from_numpy(embed_texts(["a text"] * 16, encoder_name=ENCODER))',
    }
    code = DRAW.replace("{condition}", asked.get(condition, "")).replace("{size}", str(image.get("size", "S")))
    code = code.replace("{channels}", "1" if image.get("channels") == "grey" else "3")
    more = {"label": "import torch\n", "caption": "import torch\nfrom finetune.image.captions import embed_texts\n"}
    option = {"label": " --label NAME", "caption": ' --prompt "a text"'}.get(condition, "")
    looks = "finetune predict PATH --input IMAGES --output scores.csv"
    return [
        "It is loaded by this package:",
        f"```python\n{more.get(condition, '')}{code}\n```",
        f"On the command line, to draw, and to score given images:\n\n```\nfinetune sample PATH{option}\n{looks}\n```",
        _asked(card),
    ]


def copying(card: Card) -> list[str]:
    """How near drawn images are to the training images; of the chosen weights alone."""
    pictures = card.story.pictures
    found = pictures.neighbours if pictures is not None and card.is_chosen else None
    if found is None:
        return []
    verdict = (
        "It draws training images again, or only few kinds."
        if is_suspicious(found)
        else "Nothing here says that it copies; distances of pixels do not see every copy."
    )
    return [
        f"{found.near_share:.1%} of {found.drawn:,} drawn images are nearer to one of {found.training:,} training "
        f"images than 95 % of {found.real:,} real {escaped(found.split)} images are (new images: about 5 %); "
        f"exact copies: {found.copies:,}. {verdict}"
    ]


def image_settings(card: Card) -> list[tuple[str, object]]:
    """The settings of the networks and of the images, as the recipe names them."""
    kinds = {f"model.{kind}": card.section("model").get(kind) for kind in ("vae", "gan", "style")}
    by_text = _condition(card) == "caption"
    sections = {
        name: each for name, each in {**kinds, "image": card.section("image")}.items() if isinstance(each, dict)
    }
    return [
        (f"{section}.{name}", value)
        for section, each in sections.items()
        for name, value in each.items()
        if value not in (None, [], {}) and not isinstance(value, dict) and (name != "text_encoder" or by_text)
    ]


def reading(data: Json) -> list[str]:
    """What became of the images on their way to the network; nothing of data without images."""
    found = data.get("images") or {}
    told = [f"Images: {escaped(found['resizing'], 1000)}."] if found.get("resizing") else []
    if changed := found.get("changed"):
        told.append("Changed: " + "; ".join(f"{escaped(what)}: {n:,}" for what, n in changed.items()) + ".")
    if skipped := found.get("skipped"):
        told.append(f"Skipped, because they could not be read: {skipped:,}.")
    return told


def limits(card: Card) -> list[str]:
    return [
        "Every image is made up. A label or a text is what was asked for, and not what an image shows.",
        "Scores of drawn images compare only with scores of the same data, features and counts.",
    ]


def _condition(card: Card) -> str:
    image = card.model.get("image")
    return str(image.get("condition", "none")) if isinstance(image, dict) else "none"


def _asked(card: Card) -> str:
    labels = card.model.get("labels")
    if _condition(card) == "none" or not isinstance(labels, list) or not labels:
        return ""
    shown = ", ".join(escaped(name) for name in labels[:MOST_LABELS])
    return f"Its labels, in the order of their numbers: {shown}{', ...' if len(labels) > MOST_LABELS else ''}."
