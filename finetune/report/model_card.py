"""A run -> README.md of the weights in best/ or last/: the Hub's front matter, and what the report says, in Markdown.

The scores are those of exactly the weights beside the card. No text of a document, no path, no name of a machine or a
user gets into it; names and labels come from the data and are escaped, so that no reader takes them for YAML, Markdown
or HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from finetune.data.text_steps import visible
from finetune.data_card import escaped
from finetune.report.adapter_card import adapter_facts, adapter_settings, is_adapter, libraries, load_classifier
from finetune.report.card_facts import Card, Which, base_model, file_name, front_matter, read_card
from finetune.report.image_card import copying, how_to_draw, image_settings, limits, reading
from finetune.report.parts import IMAGE_HEADLINES, MORE_IMAGE_HEADLINES, MORE_TEXT_HEADLINES, TEXT_HEADLINES
from finetune.report.sentences import (
    coverages,
    difference_text,
    p_of,
    p_text,
    score_text,
    strongest_baseline,
    verdict_sentences,
)
from finetune.report.strings import Words
from finetune.report.text_card import decoding, how_to_write, sequence_facts
from finetune.run_files import Score
from finetune.runs import Json, Run
from finetune.scores.coverage import NOMINAL_LEAST_CLASS

MOST_LABELS = 100
MOST_SENTENCE_CHARACTERS = 1000
HEADLINES = ("accuracy", "f1_macro", "f1_weighted", "matthews", "roc_auc", "log_loss")
WINDOWS = ("max_tokens", "max_target_tokens", "stride", "aggregate", "packing", "completions_only", "too_long")
SETTINGS = (
    *("num_train_epochs", "max_steps", "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("optim", "weight_decay", "lr_scheduler_type", "warmup_steps", "max_grad_norm", "class_weights"),
    *("label_smoothing_factor", "metric_for_best_model", "early_stopping_patience", "bf16", "fp16"),
)
LOAD_PLAIN = """from transformers import pipeline

classify = pipeline("text-classification", model="PATH_OR_NAME", top_k=None)"""
_WORDS = Words("en")
_IMAGE_WORDS = Words("en", of_images=True)


def render_model_card(run: Run, *, which: Which, name: str | None = None, settings: Json | None = None) -> str:
    """README.md for the folder best/ or last/ of a scored run, called as its folder is, or `name`.

    `settings` are finetune.json of a model that was made of it by merging, and is beside this card instead.
    Raises CheckpointError when it was never scored.
    """
    card = read_card(run, which)
    card = replace(card, name=name or card.name, model=card.model if settings is None else settings)
    parts = [
        front_matter(card),
        f"# {escaped(card.name)}",
        " ".join(escaped(sentence, MOST_SENTENCE_CHARACTERS) for sentence in verdict_sentences(card.scores)),
        _which_weights(card),
        _section("Scores", *_scores(card)),
        _section("Labels", *_labels(card)),
        _section("How to use it", *_how_to_use(card)),
        _section("Does it copy?", *(copying(card) if card.story.draws else [])),
        _section("How its texts were written and scored", *(decoding(card) if card.story.writes else [])),
        _section("Calibration", *_calibration(card)),
        _section("Training data", *_data(card)),
        _section("Training", *_training(card)),
        _section("Limits", *_limits(card)),
        _section("Environment", *_environment(card)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# ---- for people


def _how_to_use(card: Card) -> list[str]:
    if card.story.draws:
        return how_to_draw(card)
    return how_to_write(card) if card.story.writes else _use(card)


def _which_weights(card: Card) -> str:
    epoch = card.scores.best_epoch
    chosen = f"from epoch {epoch:g}, chosen by validation {_code(card.scores.metric_for_best_model)}" if epoch else ""
    if card.which == "best":
        text = f"The weights beside this card are those of `best/`{', ' if chosen else ''}{chosen}."
    elif card.is_chosen:
        text = "The weights beside this card are those of the last epoch, which is also the chosen one."
    else:
        text = "The weights beside this card are those of the last epoch, not the chosen ones of `best/`."
    digest = card.scores.weights.get(card.which)
    if merged := card.model.get("merged"):
        told = f", {chosen}" if chosen and card.which == "best" else ""
        text = (
            f"The weights beside this card are the adapter of `{card.which}/`{told}, worked into its "
            f"base. The scores are those of the adapter on its base; merged, the logits of a probe differ by "
            f"{merged['difference']:.1g} of the largest."
        )
        return f"{text} sha256 of the adapter: `{digest}`."
    return f"{text} sha256 of the weights: `{digest}`." if digest else text


def _scores(card: Card) -> list[str]:
    split, scores = card.split, card.shown.scores
    of_images = (*IMAGE_HEADLINES, *MORE_IMAGE_HEADLINES) if card.story.draws else HEADLINES
    headlines = (*TEXT_HEADLINES, *MORE_TEXT_HEADLINES) if card.story.writes else of_images
    names = [name for name in dict.fromkeys((card.scores.metric_for_best_model, *headlines)) if name in scores]
    rows = [["**this model**", *(score_text(scores[name], name) for name in names)]]
    for baseline, by_split in card.scores.baselines.items():
        if split in by_split:
            theirs = by_split[split].scores
            rows.append([_baseline(baseline), *(_theirs(theirs, name) for name in names)])
    documents, kind = next(iter(scores.values())).n if scores else 0, _units(card)
    opened = len(card.story.openings)
    if split == "test":
        about = f"{documents:,} test {kind}, which took no part in any choice. The test split was opened "
        about += "once." if opened == 1 else f"{opened:,} times."
    else:
        about = f"The test split was not opened. {documents:,} validation {kind}, which chose the epoch: these scores "
        about += "are optimistic and no result."
    shown = [(name, scores[name]) for name in names]
    told = [f"- {_code(name)}: {escaped(scores[name].note, MOST_SENTENCE_CHARACTERS)}" for name in names
            if card.story.draws and scores[name].note]  # fmt: skip
    return [
        about, _table(["", *map(_code, names)], rows), _intervals(shown, split, card), "\n".join(told), *_paired(card)
    ]  # fmt: skip


def _units(card: Card) -> str:
    return "images" if card.story.draws else "documents"


def _theirs(scores: Mapping[str, Score], name: str) -> str:
    """A baseline that only copies has no loss; its place stays empty."""
    return score_text(scores[name], name) if name in scores else ""


def _intervals(scores: Sequence[tuple[str, Score]], split: str, card: Card) -> str:
    """What the intervals cover; which of them are approximate, and how much they hold."""
    if not any(score.low is not None for _, score in scores):
        return _WORDS("note.no_intervals")
    words = _IMAGE_WORDS if card.story.draws else _WORDS
    text = words("note.intervals" if split == "test" else "note.intervals_validation")
    if approximate := coverages(scores):
        shares = _WORDS.listed([f"{name} {share} %" for name, share in approximate.items()])
        text += " " + _WORDS("note.approximate_each", shares=shares)
    return escaped(text, MOST_SENTENCE_CHARACTERS)


def _paired(card: Card) -> list[str]:
    tests = card.scores.baseline_tests
    if not tests:
        if card.split == "test" and not card.is_chosen:
            return ["Only the model in `best/` was compared with the baselines by a paired test."]
        return []
    rows = [
        [_baseline(name), _code(test.metric), difference_text(test), p_text(p_of(test)), "yes" if test.better else "no"]
        for name, test in tests.items()
    ]
    strongest = strongest_baseline(card.scores)
    named = f" The strongest by validation is {_baseline(strongest)}." if strongest else ""
    about = f"Paired tests on the same {_units(card)} (approximate randomisation, two-sided); better is ahead with "
    about += "p < 0.05."
    return [about + named, _table(["baseline", "score", "model - baseline", "p", "better"], rows)]


def _baseline(name: str) -> str:
    return escaped(_WORDS.known("baseline", name))


def _labels(card: Card) -> list[str]:
    rows = [
        [escaped(row.get("label")), *(_number(row.get(key)) for key in ("support", "precision", "recall", "f1"))]
        for row in card.shown.per_class[:MOST_LABELS]
    ]
    hidden = len(card.shown.per_class) - MOST_LABELS
    several = "A document may have several labels, or none." if card.model.get("multi_label") else ""
    return [
        several,
        _table(["label", f"{card.split} documents", "precision", "recall", "F1"], rows),
        f"{hidden:,} more labels are in config.json." if hidden > 0 else "",
    ]


def _use(card: Card) -> list[str]:
    windows = card.model.get("windows") or {}
    longest = windows.get("max_tokens", 512)
    load = load_classifier(card) if is_adapter(card) else LOAD_PLAIN
    plain = f'```python\n{load}\nclassify("a text", truncation=True, max_length={longest})\n```'
    long = """```
finetune predict PATH --text "a text"
finetune predict PATH --input FILE.csv --output predictions.csv
```"""
    cleaning = [escaped(file_name(step)) for step in _step_names(card.model.get("cleaning"))]
    cleaned = (
        f" Texts were cleaned before ({', '.join(cleaning)}); `finetune predict` does the same." if cleaning else ""
    )
    cut = (
        "keeps the first window only" if windows.get("truncate") else "cuts a longer document into overlapping windows"
    )
    merged = f" and merges their predictions ({_code(windows.get('aggregate', 'mean'))})" if "keeps" not in cut else ""
    return [
        adapter_facts(card),
        f"With {libraries(card)}, which reads the first {longest} tokens of a text:",
        plain,
        f"With finetune, which {cut} of at most {longest} tokens{merged}, as in training and in the scores above:",
        long,
        cleaned.strip(),
    ]


def _step_names(cleaning: object) -> list[str]:
    """`drop_short` of `drop_short` and of `{drop_short: 20}`."""
    steps = cleaning if isinstance(cleaning, list) else []
    return [str(next(iter(step), "")) if isinstance(step, dict) else str(step) for step in steps]


def _calibration(card: Card) -> list[str]:
    found = card.scores.calibration
    if found is None:
        return []
    if not card.is_chosen:
        return ["None: the temperature was fitted for the model in `best/` and is not in these weights."]
    unchanged = found.temperature == 1.0
    text = (
        _WORDS("calibration.unchanged")
        if unchanged
        else _WORDS("calibration.about", temperature=f"{found.temperature:.3f}")
    )
    if not unchanged:
        text += " " + _WORDS("calibration.folded" if found.folded else "calibration.not_folded")
    rows = []
    if not unchanged and found.before is not None and found.after is not None:
        rows = [
            [name, _number(getattr(found.before, key)), _number(getattr(found.after, key))]
            for name, key in ((_WORDS("calibration.ece"), "ece"), (_WORDS("calibration.log_loss"), "log_loss"))
        ]
    thresholds = [[escaped(label), _number(value)] for label, value in found.thresholds.items()][:MOST_LABELS]
    return [
        escaped(text, MOST_SENTENCE_CHARACTERS),
        escaped(found.note, MOST_SENTENCE_CHARACTERS) if found.note else "",
        _table(["on test", "before", "after"], rows),
        _WORDS("thresholds.caption") + ":" if thresholds else "",
        _table(["label", "threshold"], thresholds),
    ]


def _data(card: Card) -> list[str]:
    data = card.story.data
    files = [
        [escaped(file_name(each.get("name"))), _number(each.get("rows")), f"`{each.get('sha256')}`"]
        for each in data.get("files", [])
    ]
    groups, counts = data.get("groups") or {}, (data.get("splits") or {}).get("sizes") or {}
    splits = [[escaped(name), _number(size), _number(groups.get(name) or None)] for name, size in counts.items()]
    cleaning = [
        [escaped(file_name(each.get("name"))), _number(each.get("changed")), _number(each.get("dropped"))]
        for each in data.get("cleaning", [])
    ]
    families, copies = data.get("duplicate_families") or {}, data.get("augmentation") or {}
    facts = reading(data)
    if families:
        facts.append(
            f"Duplicates: {families.get('rows_in_families', 0):,} {_units(card)} are in "
            f"{families.get('near_families', 0):,} families of near duplicates, "
            f"{families.get('rows_in_exact_families', 0):,} in "
            f"{families.get('exact_families', 0):,} of equal ones; a family stays in one split."
        )
    facts += _leaks(data, _units(card))
    if copies.get("copies"):
        facts.append(f"Augmentation: {_number(copies['copies'])} changed copies, in the training split only.")
    return [
        _table(["source", "images" if card.story.draws else "rows", "sha256"], files),
        _table(["split", _units(card), "groups"], splits),
        _table(["cleaning step", "rows changed", "rows dropped"], cleaning),
        "\n".join(f"- {fact}" for fact in facts),
    ]


def _leaks(data: Json, units: str) -> list[str]:
    """How many documents, or images, of a later split an earlier one shares, or their group; brought and left."""
    found = data.get("leaks") or {}
    told = []
    for what, key in (("as the splits were brought", "brought"), ("now", "left")):
        overlaps = found.get(key)
        if overlaps is not None:
            total = sum(int(each.get("leaking") or 0) for each in overlaps)
            told.append(f"Leaks {what}: {total:,} {units} share content or a group with an earlier split.")
    return told


def _training(card: Card) -> list[str]:
    info, training, model = card.story.info, card.section("training"), card.section("model")
    base = base_model(card)
    is_new = model.get("from_scratch") or (card.story.draws and not model.get("name"))
    started = "from scratch" if is_new else f"from {_code(base)}" if base else "from a local model"
    size = f", {info.parameters:,} parameters" if info.parameters else ""
    facts = [
        f"Model: {started}{size}.",
        f"Steps: {_number(info.steps)} on {escaped(info.device)}, {sum(info.seconds.values()):,.0f} seconds in all.",
        f"Seed: {info.seed}.",
        *(sequence_facts(card) if card.story.writes else []),
    ]
    windows = card.section("windows") or card.model.get("windows") or {}
    shown = [(name, training[name]) for name in SETTINGS if training.get(name) not in (None, False)]
    shown += adapter_settings(card)
    shown += [(f"windows.{name}", windows[name]) for name in WINDOWS if windows.get(name) is not None]
    shown += image_settings(card) if card.story.draws else []
    rows = [[_code(name), escaped(value)] for name, value in shown]
    return ["\n".join(f"- {fact}" for fact in facts), _table(["setting", "value"], rows)]


def _limits(card: Card) -> list[str]:
    rare = [row for row in card.shown.per_class if (row.get("support") or 0) < NOMINAL_LEAST_CLASS]
    facts = [
        f"The scores hold for {_units(card)} like those of the test split; other sources, times or authors were not "
        "tested."
        if card.split == "test"
        else f"No score here is of {_units(card)} that took no part in choosing.",
        "They are of one training with one seed; another seed gives other weights.",
    ]
    if rare:
        noun = "label has" if len(rare) == 1 else "labels have"
        facts.append(
            f"{len(rare):,} {noun} fewer than {NOMINAL_LEAST_CLASS} {card.split} documents: read their rows as rough."
        )
    if (card.model.get("windows") or {}).get("truncate"):
        facts.append("What follows the first window of a document was never read.")
    if card.story.writes:
        facts.append("What it writes may be wrong or made up: nothing beyond the scores above was checked.")
    facts += limits(card) if card.story.draws else []
    facts.append("Bias against groups of people, and misuse, were not examined.")
    notes = [escaped(note, MOST_SENTENCE_CHARACTERS) for note in card.scores.notes]
    return ["\n".join(f"- {fact}" for fact in [*facts, *notes])]


def _environment(card: Card) -> list[str]:
    info = card.story.info
    rows = [[escaped(name), escaped(version)] for name, version in info.versions.items()]
    place = f"{escaped(info.platform)}, {escaped(info.device)}, {_number(info.processes)} process"
    return [place + ("es." if info.processes != 1 else "."), _table(["", "version"], rows)]


# ---- Markdown


def _section(title: str, *blocks: str) -> str:
    filled = [block for block in blocks if block]
    return "\n\n".join([f"## {title}", *filled]) if filled else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are escaped already; nothing where there are no rows."""
    lines = [header, ["---"] * len(header), *rows] if rows else []
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(name: object) -> str:
    """A name of ours, such as a metric or a setting."""
    return f"`{visible(str(name)).replace('`', '')}`"


def _number(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}" if isinstance(value, float) else escaped(value)
