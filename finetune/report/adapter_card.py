"""What the model card of an adapter says besides: of which base it is, and how peft loads it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from finetune.data_card import escaped
from finetune.report.card_facts import Card

SETTINGS = ("kind", "r", "alpha", "dropout", "target_modules", "modules_to_save")
LOAD_CLASSIFIER = """from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

config = AutoConfig.from_pretrained("PATH_OR_NAME")  # the labels
base = AutoModelForSequenceClassification.from_pretrained({base}, config=config)
model = PeftModel.from_pretrained(base, "PATH_OR_NAME").merge_and_unload()
tokenizer = AutoTokenizer.from_pretrained("PATH_OR_NAME")
classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)"""


def is_adapter(card: Card) -> bool:
    """Whether the weights beside the card are an adapter, and need their base."""
    return isinstance(card.model.get("adapter"), dict)


def adapter_facts(card: Card) -> str:
    """One sentence: what lies here, and of what."""
    if not is_adapter(card):
        return ""
    adapter = card.model["adapter"]
    base = _base(card)
    name = "a local model" if base.get("is_folder") else f"`{escaped(base.get('name'))}`"
    revision = f" at revision `{escaped(base['revision'])}`" if base.get("revision") else ""
    digest = f" (sha256 of its weights: `{escaped(base.get('sha256'))}`)" if base.get("sha256") else ""
    return f"These files are an adapter ({escaped(adapter.get('kind'))}) of {name}{revision}{digest}, and need it."


def adapter_settings(card: Card) -> list[tuple[str, object]]:
    """What the recipe says of the part that was trained; nothing where that was all."""
    section = card.section("adapter")
    names = {"none": (), "frozen": ("kind",)}.get(str(section.get("kind", "none")), SETTINGS)
    return [(f"adapter.{name}", section[name]) for name in names if section.get(name) is not None]


def libraries(card: Card) -> str:
    """What loads the weights beside the card, without this product."""
    return "peft and transformers" if is_adapter(card) else "plain transformers"


def load_classifier(card: Card) -> str:
    """Python that loads the adapter and its base into a pipeline."""
    return LOAD_CLASSIFIER.replace("{base}", _base_arguments(card))


def load_writer(card: Card, code: str) -> str:
    """The same code for a plain model, with base and adapter in its place."""
    lines = ["from peft import PeftModel"]
    for line in code.splitlines():
        if line.startswith("model = ") and '.from_pretrained("PATH_OR_NAME")' in line:
            lines.append(line.replace("model = ", "base = ").replace('"PATH_OR_NAME"', _base_arguments(card)))
            lines.append('model = PeftModel.from_pretrained(base, "PATH_OR_NAME").merge_and_unload()')
        else:
            lines.append(line)
    return "\n".join(lines)


def _base_arguments(card: Card) -> str:
    """`"owner/name", revision="..."`; a folder is the reader's to name."""
    base = _base(card)
    if base.get("is_folder") or not base.get("name"):
        return '"PATH_OF_BASE"'
    revision = f", revision={json.dumps(base['revision'])}" if base.get("revision") else ""
    return json.dumps(base["name"]) + revision


def _base(card: Card) -> Mapping[str, object]:
    found = card.model["adapter"].get("base")
    return found if isinstance(found, dict) else {}
