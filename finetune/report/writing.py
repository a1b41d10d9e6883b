"""report.html of any folder that `finetune` makes, and the model cards of a run.

A folder is told by its JSON file. The same folder always gives the same bytes: a page says when the run was, never
when it was written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

from finetune.errors import CheckpointError
from finetune.report.card_facts import Which
from finetune.report.comparison_page import render_comparison
from finetune.report.many_pages import render_crossval, render_search, render_seeds
from finetune.report.model_card import render_model_card
from finetune.report.run_page import render_run
from finetune.report.strings import Language
from finetune.run_files import RunFile
from finetune.runs import MODEL_SETTINGS, Run, write_text
from finetune.selection.compare import Comparison
from finetune.selection.crossval import CrossValidation
from finetune.selection.search import SearchResult
from finetune.selection.seeds import SeedStudy
from finetune.yaml_text import read_yaml

INSIDE = "*/**/run.json"  # the runs of a folder of many


def write_report(folder: Path, language: Language | None = None) -> Path:
    """Write report.html, of several runs also those of the finished runs inside; the path of the page.

    `language` None is that of the recipe, for several runs of the first one inside. Raises CheckpointError for a folder
    that is none of ours, or that is not finished.
    """
    if (folder / "run.json").is_file():
        return _write_run(Run(folder), language)
    for name, (kind, render) in PAGES.items():
        if (folder / name).is_file():
            content = Run(folder).read(folder / name, kind)  # refused before a page inside is written
            return _write_many(folder, partial(render, content), language)
    what = f"has none of run.json, {', '.join(PAGES)}"
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
    raise CheckpointError(str(folder), what, "Name a finished run, comparison, cross-validation or search.")


def _write_run(run: Run, language: Language | None) -> Path:
    """The page and the cards; nothing is written before all of them could be made."""
    page = render_run(run, language or _language_of(run))
    for path, text in {**_cards(run), run.report: page}.items():
        write_text(path, text)
    return run.report


def _cards(run: Run) -> dict[Path, str]:
    """Cards by their paths: the run's own is that of best/. A run whose models were not kept has none."""
    cards: dict[Path, str] = {}
    if run.best.is_dir():
        cards[run.card] = cards[run.best / "README.md"] = render_model_card(run, which="best")
    if run.last.is_dir():
        cards[run.last / "README.md"] = render_model_card(run, which="last")
    return cards


def write_merged_card(source: str | Path, folder: Path) -> None:
    """README.md for the plain model in `folder` that was made of an adapter in `source`.

    `source` is a scored run, or its best/ or last/; an adapter that has left its run has no scores to tell.
    """
    place = Path(source).expanduser().absolute()
    is_run = (place / "run.json").is_file()
    run, which = (Run(place), "best") if is_run else (Run(place.parent), place.name)
    if which in get_args(Which) and run.scores.is_file():
        settings = json.loads((folder / MODEL_SETTINGS).read_text(encoding="utf-8"))
        write_text(folder / "README.md", render_model_card(run, which=cast(Which, which), settings=settings))


def _write_many(folder: Path, render: Callable[[Path, Language], str], language: Language | None) -> Path:
    inside = [Run(path.parent) for path in sorted(folder.glob(INSIDE)) if (path.parent / "scores.json").is_file()]
    chosen = language or (_language_of(inside[0]) if inside else "en")
    for run in inside:
        _write_run(run, language)
    # After the runs, because the page links to the reports that are there.
    path = Run(folder).report
    write_text(path, render(folder, chosen))
    return path


def _language_of(run: Run) -> Language:
    """What the recipe says; a recipe of an older version, or none, means English."""
    if not run.recipe.is_file():
        return "en"
    report = read_yaml(run.recipe.read_text(encoding="utf-8"), name=str(run.recipe)).values.get("report")
    return "zh" if isinstance(report, dict) and report.get("language") == "zh" else "en"


PAGES: dict[str, tuple[type[RunFile], Callable[[Any, Path, Language], str]]] = {
    "comparison.json": (Comparison, render_comparison),
    "crossval.json": (CrossValidation, render_crossval),
    "seeds.json": (SeedStudy, render_seeds),
    "search.json": (SearchResult, render_search),
}
