"""What the card of a text generator says and a classifier's does not: how to write with it, and how its texts came."""

from __future__ import annotations

import json
from collections.abc import Mapping

from finetune.data_card import escaped
from finetune.report.adapter_card import adapter_facts, is_adapter, libraries, load_writer
from finetune.report.card_facts import Card
from finetune.report.text_parts import SHOTS, shown_settings

# Of the section `generation`, what `generate` is always told: a model's own generation_config.json may say otherwise.
ALWAYS = {"max_new_tokens": 128, "do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}
# What it is told where it is not at the value that does nothing. transformers' own top_k is 50.
UNLESS_NEUTRAL = {"min_new_tokens": 0, "length_penalty": 1.0, "no_repeat_ngram_size": 0}
OF_SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
CAUSAL = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_OR_NAME")
model = AutoModelForCausalLM.from_pretrained("PATH_OR_NAME")
inputs = {inputs}
output = model.generate(
    inputs["input_ids"], attention_mask=inputs["attention_mask"],
    {settings},
)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))"""
SEQ2SEQ = """from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_OR_NAME")
model = AutoModelForSeq2SeqLM.from_pretrained("PATH_OR_NAME")
inputs = {inputs}
output = model.generate(
    inputs["input_ids"], attention_mask=inputs["attention_mask"],
    {settings},
)
print(tokenizer.decode(output[0], skip_special_tokens=True))"""
TEXT_INPUTS = 'tokenizer("a prompt", return_tensors="pt")'
CHAT_INPUTS = (
    'tokenizer.apply_chat_template(\n    [{"role": "user", "content": "a question"}], add_generation_prompt=True, '
    'return_tensors="pt", return_dict=True\n)'
)


def how_to_write(card: Card) -> list[str]:
    """Code for plain transformers with the settings of the scores, and the commands of this product."""
    form, windows = card.model.get("form"), card.model.get("windows") or {}
    generation = _generation(card)
    code = SEQ2SEQ if card.story.info.task == "seq2seq" else CAUSAL
    inputs = CHAT_INPUTS if form == "chat" else TEXT_INPUTS
    settings = _arguments(generation, ends=card.model.get("end_ids") if form == "chat" else None)
    plain = code.replace("{inputs}", inputs).replace("{settings}", settings)
    plain = load_writer(card, plain) if is_adapter(card) else plain
    shots = generation.get(SHOTS)
    return [
        adapter_facts(card),
        f"With {libraries(card)}, and the settings of the scores above:",
        f"```python\n{plain}\n```",
        f"It was trained on sequences of at most {windows['max_tokens']:,} tokens." if "max_tokens" in windows else "",
        f"For the scores {len(shots)} examples stood before every prompt; `finetune predict` puts them there."
        if isinstance(shots, list) and shots
        else "",
        "With finetune, which reads these settings from the folder:",
        '```\nfinetune predict PATH --prompt "a prompt"\n'
        "finetune predict PATH --input FILE.csv --output predictions.csv\n```",
    ]


def decoding(card: Card) -> list[str]:
    """The settings behind every text that was scored, and what BLEU and chrF were computed by."""
    settings = shown_settings(_generation(card), str(card.model.get("form")))
    rows = [f"| `{name}` | {escaped(value)} |" for name, value in settings]
    signed = [f"- {name}: `{signature}`" for name, signature in card.shown.signatures.items()]
    return [
        "\n".join(["| setting | value |", "| --- | --- |", *rows]) if rows else "",
        "Signatures of sacrebleu, which give the same numbers to everyone:" if signed else "",
        "\n".join(signed),
    ]


def sequence_facts(card: Card) -> list[str]:
    """What was cut or dropped of the documents, and how full the blocks were."""
    windows: Mapping[str, Mapping[str, object]] = card.story.data.get("windows") or {}
    facts = []
    for what, key in (("cut to fit", "documents_cut"), ("dropped", "documents_dropped")):
        counts = {split: each.get(key) for split, each in windows.items()}
        if any(counts.values()):
            named = ", ".join(f"{escaped(split)} {count:,}" for split, count in counts.items() if count)
            facts.append(f"Documents {what}: {named}.")
    if (filled := card.story.info.fill_rate) is not None:
        facts.append(f"Packing filled {filled:.1%} of the blocks.")
    return facts


def _generation(card: Card) -> Mapping[str, object]:
    """As stored with the weights; of a folder without them, as the recipe says."""
    found = card.model.get("generation")
    return found if isinstance(found, dict) else card.section("generation")


def _arguments(generation: Mapping[str, object], *, ends: object) -> str:
    """`max_new_tokens=40, do_sample=False, ...` for `generate`."""
    chosen = {name: generation.get(name, neutral) for name, neutral in ALWAYS.items()}
    if generation.get("do_sample"):
        chosen |= {name: generation.get(name, neutral) for name, neutral in OF_SAMPLING.items()}
    chosen |= {name: generation[name] for name, neutral in UNLESS_NEUTRAL.items()
               if generation.get(name, neutral) != neutral}  # fmt: skip
    if ends:
        chosen["eos_token_id"] = ends
    # A number of the settings, never a text, so that nothing in them can be code.
    return ", ".join(f"{name}={_python(value)}" for name, value in chosen.items())


def _python(value: object) -> str:
    return repr(value) if isinstance(value, bool) else json.dumps(value)
