"""Does augmentation help on this data? The same recipe with and without it, over several seeds, paired.

    python benchmarks/augmentation_effect.py recipes/reviews.yaml --augmentation "delete=0.1,swap=0.1" --seeds 13 14 15

What is compared is the validation score that chooses the epoch (`training.metric_for_best_model`), of the best model:
a little too good in both arms alike. One seed gives both arms the same validation documents, which is checked, and a
pretrained model the same weights to begin with; one from scratch learns its tokenizer from the copies too. The
differences, seed by seed, have a Student t interval, which covers the choice of the split and the randomness of
training, for this data and recipe only.

Training opens the test split once, at its end, to write the run folder; no test score is read here, and the run
folders are thrown away. Copies make an epoch longer: `--equal-steps` gives the arm without them as many more epochs,
so that a gain is not just the gain of training longer.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.progress import SILENT, write
from finetune.recipe_file import LoadedRecipe, load_recipe

HERE = Path(__file__).resolve().parent
ARMS = ("without", "with")
CONFIDENCE = 0.95


def main() -> None:
    options = _options()
    runs = []
    for seed in options.seeds:
        validation: dict[str, list[str]] = {}
        for arm in ARMS:
            loaded = _recipe(arm, seed, options)
            with tempfile.TemporaryDirectory(prefix="augmentation-effect-") as work:
                measured, validation[arm] = _train(loaded, Path(work) / "run")
            runs.append({"seed": seed, "arm": arm, **measured})
            write(sys.stdout, _row(runs[-1]))
        if validation["with"] != validation["without"]:
            sys.exit(f"seed {seed}: the arms have different validation documents, so they cannot be compared")
    result = _result(runs, options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write(sys.stdout, _summary(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Validation scores with and without augmentation, paired by seed.")
    parser.add_argument("recipe", type=Path, help="recipe file")
    parser.add_argument("overrides", nargs="*", help="key=value, for both arms")
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 14, 15], help="default: 13 14 15")
    parser.add_argument("--augmentation", help='for example "delete=0.1,swap=0.1"; default: the section of the recipe')
    parser.add_argument("--equal-steps", action="store_true", help="the arm without copies gets as many more epochs")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "augmentation_effect.json")
    options = parser.parse_intermixed_args()
    if len(set(options.seeds)) < len(options.seeds):
        parser.error("a seed is named twice")
    return options


def _recipe(arm: str, seed: int, options: argparse.Namespace) -> LoadedRecipe:
    asked = [f"augmentation.{part.strip()}" for part in (options.augmentation or "").split(",") if part.strip()]
    # Baselines and intervals say nothing about the difference between the arms.
    fixed = [*options.overrides, f"seed={seed}", "evaluation.baselines=[]", "evaluation.bootstrap=0"]
    augmented = load_recipe(options.recipe, [*fixed, *asked])
    section = augmented.recipe.augmentation
    if section is None:
        sys.exit("nothing to compare: the recipe has no augmentation section; name one with --augmentation")
    if arm == "with":
        return augmented
    training = augmented.recipe.training
    if options.equal_steps and training.max_steps is None:
        fixed.append(f"training.num_train_epochs={training.num_train_epochs * (1 + section.copies)}")
    return load_recipe(options.recipe, [*fixed, "augmentation=null"])


def _train(loaded: LoadedRecipe, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What one run came to, read from its folder, and the ids of its validation documents."""
    from finetune.experiment import train
    from finetune.run_files import RunInfo, Scores
    from finetune.runs import read_table

    run = train(loaded, folder=folder, progress=SILENT)
    scores, info = run.read(run.scores, Scores), run.read(run.info, RunInfo)
    report = json.loads(run.data.read_text(encoding="utf-8")).get("augmentation")
    if (report is None) != (loaded.recipe.augmentation is None):
        sys.exit(f"{loaded.name}: data.json and the recipe disagree about augmentation")
    metric = scores.metric_for_best_model
    if (value := scores.splits["validation"].scores[metric].value) is None:
        sys.exit(f"{metric} is undefined on the validation split of seed {loaded.recipe.seed}")
    measured = {
        "metric": metric,
        "validation_score": value,
        "best_epoch": scores.best_epoch,
        "steps": info.steps,
        "fit_seconds": info.seconds["fit"],
        "copies": report["copies"] if report else 0,
        "words_changed": report["words_changed"] if report else {},
    }
    return measured, read_table(run.predictions("validation"))["id"]


def _result(runs: Sequence[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    from machine import describe_machine

    from finetune.scores.paired import greater_is_better

    scores = {arm: [run["validation_score"] for run in runs if run["arm"] == arm] for arm in ARMS}
    differences = [high - low for high, low in zip(scores["with"], scores["without"], strict=True)]
    low, high = _t_interval(differences)
    section = _recipe("with", options.seeds[0], options).recipe.augmentation
    assert section is not None
    return {
        **describe_machine(),
        "recipe": options.recipe.name,
        # Folders of this machine are nobody's business.
        "overrides": [f"{key}={Path(value).name}" for key, _, value in (o.partition("=") for o in options.overrides)],
        "augmentation": section.model_dump(mode="json") | {"lexicon": section.lexicon and Path(section.lexicon).name},
        "equal_steps": options.equal_steps,
        "metric": runs[0]["metric"],
        "greater_is_better": greater_is_better(runs[0]["metric"]),
        "mean_validation_score": {arm: statistics.fmean(scores[arm]) for arm in ARMS},
        "difference_by_seed": dict(zip(map(str, options.seeds), differences, strict=True)),
        "mean_difference": statistics.fmean(differences),
        "confidence": CONFIDENCE,
        "low": low,
        "high": high,
        "runs": list(runs),
    }


def _t_interval(differences: Sequence[float]) -> tuple[float | None, float | None]:
    """Student's interval of the mean; none from one seed, which says nothing about the spread."""
    if len(differences) < 2:
        return None, None
    from scipy.stats import t

    mean, error = statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(differences))
    reach = float(t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1)) * error
    return mean - reach, mean + reach


def _row(run: dict[str, Any]) -> str:
    return (
        f"seed {run['seed']}  {run['arm']:<8}{run['metric']} {run['validation_score']:.4f}  epoch {run['best_epoch']}"
        f"  {run['steps']:,} steps  {run['copies']:,} copies  {run['fit_seconds']:,.0f} s"
    )


def _summary(result: dict[str, Any]) -> str:
    mean, low, high = result["mean_difference"], result["low"], result["high"]
    seeds = len(result["difference_by_seed"])
    if low is None:
        return f"{result['metric']} with less without: {mean:+.4f} (one seed, so no interval)"
    higher, lower = ("helps", "harms") if result["greater_is_better"] else ("harms", "helps")
    verdict = higher if low > 0 else lower if high < 0 else "makes no difference that these seeds can show"
    interval = f"{CONFIDENCE:.0%} t interval {low:+.4f} to {high:+.4f}, {seeds} seeds"
    return f"{result['metric']} with less without: {mean:+.4f} ({interval}): augmentation {verdict}"


if __name__ == "__main__":
    main()
