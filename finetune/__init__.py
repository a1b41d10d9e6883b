"""Fine-tune Hugging Face models on your own data from one recipe, and learn honestly whether it worked.

    import finetune

    recipe = finetune.load_recipe("recipes/python-docs.yaml")
    run = finetune.train(recipe)

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

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "evaluate", "load_recipe", "train"]

_HOMES = {
    "Predictor": "finetune.predict",
    "evaluate": "finetune.experiment",
    "load_recipe": "finetune.recipe_file",
    "train": "finetune.experiment",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'finetune' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
