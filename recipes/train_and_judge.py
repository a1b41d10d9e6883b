"""Train one recipe and ask whether it was worth it: exit 0 when the model beats every cheap baseline, 1 when not.

python recipes/train_and_judge.py [RECIPE [RUN [key=value ...]]]
"""

from __future__ import annotations

import sys
from pathlib import Path

import finetune
from finetune.run_files import Scores


def main(recipe: str = "recipes/reviews.yaml", run_folder: str | None = None, *overrides: str) -> int:
    run = finetune.train(finetune.load_recipe(recipe, overrides), folder=run_folder)
    scores = run.read(run.scores, Scores)
    metric = scores.metric_for_best_model
    test = scores.splits["test"].scores[metric]
    interval = "too few for an interval" if test.low is None else f"95 % interval {test.low:.3f} to {test.high:.3f}"
    print(f"{metric} on {test.n} test documents: {test.value:.3f}, {interval}")
    for name, outcome in scores.baseline_tests.items():
        print(f"  against {name}: {outcome.difference:+.3f}, p {outcome.p:.3f}{', better' if outcome.better else ''}")
    print(f"  report: {finetune.write_report(Path(run.folder))}")
    return 0 if scores.beats_baselines else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
