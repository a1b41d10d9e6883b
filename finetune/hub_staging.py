"""What of a run may leave this machine: a fresh folder with the files of one model, looked through line by line.

Only names of a model's own files are taken; whatever else lies beside them stays here and is named. The card is written
anew from the run, so that its scores are those of exactly these weights.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.errors import CheckpointError, Collector, ModelError, listed
from finetune.hub_models import SAVED
from finetune.hub_secrets import Searched, faults_of
from finetune.model_folder import is_adapter_folder, weights_sha256
from finetune.report.card_facts import Which
from finetune.report.model_card import render_model_card
from finetune.run_files import Analysis, Scores
from finetune.runs import MODEL_SETTINGS, Json, Run, disk_faults
from finetune.yaml_text import read_yaml

What = Literal["best", "last", "adapter", "merged"]
# In the run folder, so that large files are linked, not copied.
STAGING, STAGING_MERGED = ".push", ".push-merged"
CARD = "README.md"
# Every file that a saved model of ours, or of transformers, is made of; a name that is not here is never uploaded.
UPLOADED = re.compile(
    r"(config|generation_config|finetune|adapter_config|preprocessor_config)\.json"
    r"|(adapter_)?model\.safetensors(\.index\.json)?|(adapter_)?model-\d{5}-of-\d{5}\.safetensors"
    r"|(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|chat_template\.jinja"
    r"|(vocab|merges)\.txt|(spiece|sentencepiece\.bpe|tokenizer|spm)\.model"
)
SHORTEST_TEXT_CHARACTERS = 40  # shorter ones of the data may be anybody's
COMPARED_CHARACTERS = 60


@dataclass(frozen=True)
class Staging:
    """`folder` holds `files` (name -> bytes) and nothing else; `left_out` of the model's folder stays here."""

    folder: Path
    files: Mapping[str, int]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


@contextlib.contextmanager
def staged(run: Run, what: What, *, repository: str) -> Iterator[Staging]:
    """What a push of `what` to `repository` would upload, checked; the folder is gone afterwards.

    Raises CheckpointError when the run has no such model, or none that its scores belong to, and ModelError naming
    file and line of everything that must not be uploaded.
    """
    which: Which = "last" if what == "last" else "best"
    source = run.model(which)
    if what in ("adapter", "merged") and not is_adapter_folder(source):
        raise CheckpointError(str(run.folder), "trained no adapter, and its model is whole", "Push --what best.")
    if what != "merged":
        _check_base(source)
    _check_weights(run, which)
    staging, merged = run.folder / STAGING, run.folder / STAGING_MERGED
    with run.locked():
        try:
            source, settings = _merged(run, merged) if what == "merged" else (source, None)
            card = render_model_card(run, which=which, name=repository.split("/")[-1], settings=settings)
            left_out = _fill(source, staging, card=_for_hub(card, repository))
            _check_card(staging / CARD)
            _check_lines(run, source, staging, repository=repository)
            sizes = {path.name: path.stat().st_size for path in sorted(staging.iterdir())}
            yield Staging(folder=staging, files=sizes, left_out=left_out, notes=tuple(_notes(run, staging)))
        finally:
            for folder in (staging, merged):
                shutil.rmtree(folder, ignore_errors=True)


def _check_base(model: Path) -> None:
    """ModelError for an adapter whose base nobody else can have."""
    adapter = _json(model / MODEL_SETTINGS).get("adapter") or {}
    if is_adapter_folder(model) and (adapter.get("base") or {}).get("is_folder"):
        what = "is an adapter of a folder of this machine, which nobody else can find"
        raise ModelError(str(model), what, "Push --what merged.")


def _merged(run: Run, folder: Path) -> tuple[Path, Json]:
    """A plain model in `folder`, and what its card is told of it."""
    from finetune.exporting import export_merged  # loads the model, which no other push does

    shutil.rmtree(folder, ignore_errors=True)
    export_merged(run.folder, output=folder)
    return folder, _json(folder / MODEL_SETTINGS)


def _check_weights(run: Run, which: Which) -> None:
    """CheckpointError when the scores are not those of the weights that are there now."""
    scored, folder = run.read(run.scores, Scores).weights.get(which), run.folder / which
    if scored is None:
        what = f"scores.json does not say which weights of {which}/ were scored"
        raise CheckpointError(str(run.folder), what, "It is of an older version: train the run again.")
    if weights_sha256(folder) != scored:
        what = "the weights are not those that the scores in scores.json belong to (sha256 differs)"
        raise CheckpointError(str(folder), what, "Put the model back that was scored, or train the run again.")


def _fill(source: Path, staging: Path, *, card: str) -> tuple[str, ...]:
    """The card and what else may go into a new folder; the names of what is left out."""
    left_out = []
    with disk_faults(staging.parent):
        shutil.rmtree(staging, ignore_errors=True)  # of a push that was killed
        staging.mkdir()
        for path in sorted(source.iterdir()):
            if path.is_file() and UPLOADED.fullmatch(path.name):
                _link(path, staging / path.name)
            elif path.name != CARD:
                left_out.append(path.name)
        (staging / CARD).write_text(card, encoding="utf-8")
    return tuple(left_out)


def _link(path: Path, copy: Path) -> None:
    """Weights are large: a second name for the same bytes, where the disk has that."""
    try:
        os.link(path.resolve(), copy)
    except OSError:
        shutil.copyfile(path, copy)


def _for_hub(card: str, repository: str) -> str:
    """The card with the name under which its commands will find the model."""
    found = f'find_saved_model("{SAVED}{repository}")'
    for theirs, here in (
        ('"PATH_OR_NAME"', f'"{repository}"'),
        ("finetune predict PATH", f"finetune predict {SAVED}{repository}"),
        ("finetune sample PATH", f"finetune sample {SAVED}{repository}"),
        ('load_image_model("PATH")', f"load_image_model({found})"),
        (
            "from finetune.image.networks",
            "from finetune.hub_models import find_saved_model\nfrom finetune.image.networks",
        ),
    ):
        card = card.replace(theirs, here)
    return card


def _check_card(path: Path) -> None:
    """ModelError when the front matter is not what huggingface_hub's own reader takes."""
    from huggingface_hub import ModelCard

    try:
        ModelCard(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(path.name, f"the front matter is not valid ({str(error).splitlines()[0]})") from error


def _check_lines(run: Run, source: Path, staging: Path, *, repository: str) -> None:
    """ModelError naming file and line of everything that must stay here."""
    searched = Searched.here(
        run_folder=run.folder, repository=repository, labels=_labels(staging), texts=_texts_of_data(run)
    )
    problems = Collector(ModelError)
    for path in sorted(staging.iterdir()):
        for line, what in faults_of(path, searched):
            where = f"{path.name}:{line}" if line else path.name
            do = f"Edit it in {source}." if path.name != CARD else "The card is made from the run: rename it there."
            problems.add(where, f"{what}: not uploaded", do)
    problems.raise_if_any()


def _labels(staging: Path) -> list[str]:
    """A label may be anybody's name; those of the model are no secret."""
    names = _json(staging / "config.json").get("id2label")
    return [str(name) for name in names.values()] if isinstance(names, dict) else []


def _texts_of_data(run: Run) -> list[str]:
    """Beginnings of the documents that the run folder shows: none of them may be in what is uploaded."""
    if not run.analysis.exists():
        return []
    found = run.read(run.analysis, Analysis)
    documents = [each.text for each in (*found.confident_mistakes, *found.hesitant) if each.text]
    written = [text for each in (*found.best_texts, *found.worst_texts) for text in (each.prompt, each.reference)]
    texts = (" ".join(text.split()) for text in (*documents, *written))
    return [text[:COMPARED_CHARACTERS] for text in texts if len(text) >= SHORTEST_TEXT_CHARACTERS]


def _notes(run: Run, staging: Path) -> Iterator[str]:
    """What the one who publishes should know."""
    settings = _json(staging / MODEL_SETTINGS)
    steps = [
        str(next(iter(step), "")) if isinstance(step, dict) else str(step) for step in settings.get("cleaning", [])
    ]
    own = [step for step in steps if ":" in step]
    if own:
        yield f"it cleans texts with {listed(own)}, which is not uploaded: who predicts needs that file"
    shots = (settings.get("generation") or {}).get("examples")
    if shots:
        yield f"{MODEL_SETTINGS} holds the {len(shots)} examples that stand before every prompt"
    recipe = (
        read_yaml(run.recipe.read_text(encoding="utf-8"), name=run.recipe.name).values if run.recipe.exists() else {}
    )
    model = recipe.get("model")
    if isinstance(model, dict) and model.get("from_scratch"):
        yield "its vocabulary was learnt from the training texts, and holds words of them"


def _json(path: Path) -> Json:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
