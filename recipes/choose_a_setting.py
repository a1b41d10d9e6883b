"""Choose between two settings without looking at the test documents, then look once: cross-validation, a run, a label.

python recipes/choose_a_setting.py [RECIPE [FOLDER]]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import finetune

SETTINGS = {"gentle": "training.learning_rate=1.0e-3", "bold": "training.learning_rate=1.0e-2"}


def main(recipe: str = "recipes/reviews.yaml", folder: str = "runs/choice") -> None:
    candidates = {
        name: replace(finetune.load_recipe(recipe, [setting]), name=name) for name, setting in SETTINGS.items()
    }
    found, _ = finetune.cross_validate([*candidates.values()], folds=3, folder=Path(folder) / "folds")
    assert found is not None  # None is for folds that are run elsewhere
    print(f"chosen by {found.metric} over {found.folds} folds: {SETTINGS[found.best]}")
    run = finetune.train(candidates[found.best], folder=Path(folder) / "chosen")
    predictor = finetune.Predictor.load(run.folder)
    for text in ("The room was clean and quiet.", "地毯很脏，再也不来了。"):
        prediction = predictor.predict([text])[0]
        print(f"{prediction.label}\t{text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
