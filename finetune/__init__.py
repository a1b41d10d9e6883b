"""Fine-tune Hugging Face models on your own data from one recipe, and learn honestly whether it worked.

    import finetune

    recipe = finetune.load_recipe("recipes/python-docs.yaml")
    run = finetune.train(recipe)
    finetune.write_report(run.folder)

The public names are handed out on first use, so that `import finetune` costs nothing and
`finetune --help` answers before torch is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.experiment import evaluate as evaluate
    from finetune.experiment import train as train
    from finetune.predict import Predictor as Predictor
    from finetune.recipe_file import load_recipe as load_recipe
    from finetune.report.writing import write_report as write_report
    from finetune.selection.compare import compare_runs as compare
    from finetune.selection.crossval import cross_validate as cross_validate
    from finetune.selection.search import search_settings as search_settings
    from finetune.selection.seeds import train_with_seeds as train_with_seeds
    from finetune.text_predictor import TextPredictor as TextPredictor

__version__ = "0.1.0"
__all__ = [
    "Predictor",
    "TextPredictor",
    "__version__",
    "compare",
    "cross_validate",
    "evaluate",
    "load_recipe",
    "search_settings",
    "train",
    "train_with_seeds",
    "write_report",
]

# Where each public name lives; `compare` is called compare_runs there, in a file of its own name.
_HOMES = {
    "Predictor": "finetune.predict",
    "TextPredictor": "finetune.text_predictor",
    "compare": "finetune.selection.compare",
    "cross_validate": "finetune.selection.crossval",
    "evaluate": "finetune.experiment",
    "load_recipe": "finetune.recipe_file",
    "search_settings": "finetune.selection.search",
    "train": "finetune.experiment",
    "train_with_seeds": "finetune.selection.seeds",
    "write_report": "finetune.report.writing",
}


_AT_HOME = {"compare": "compare_runs"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'finetune' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), _AT_HOME.get(name, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
