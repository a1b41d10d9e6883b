"""Is the second model really better? Two runs on the same splits, compared document by document.

python recipes/compare_two_runs.py [RECIPE [FOLDER]]
"""

from __future__ import annotations

import sys
from pathlib import Path

import finetune


def main(recipe: str = "recipes/reviews.yaml", folder: str = "runs/pair") -> None:
    variants: dict[str, list[str]] = {"small": [], "wide": ["model.from_scratch.hidden_size=64"]}
    runs = [
        finetune.train(finetune.load_recipe(recipe, overrides), folder=Path(folder) / name).folder
        for name, overrides in variants.items()
    ]
    for run in runs:
        again = finetune.evaluate(run, split="validation")
        print(f"{run.name}: accuracy {again.scores['accuracy'].value:.3f} on validation, from the saved files")
    comparison, place = finetune.compare(runs, folder=Path(folder) / "comparison")
    for pair in comparison.tests:
        print(f"{pair.first} - {pair.second}: {pair.test.difference:+.3f} {pair.test.metric}, p {pair.test.p:.3f}")
    print(f"report: {finetune.write_report(place)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
