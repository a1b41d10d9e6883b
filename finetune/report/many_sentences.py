"""The verdict in two sentences for several runs: a comparison, a cross-validation, several seeds, a search."""

from __future__ import annotations

from pathlib import Path

from finetune.report.sentences import (
    COPIES,
    FLOOR,
    Outcome,
    compared_by,
    difference_text,
    is_of_image,
    is_of_images,
    is_of_text,
    named_test,
    number,
    p_of,
    p_text,
    plain_score,
    score_text,
)
from finetune.report.strings import Language, Words
from finetune.run_files import PairedTest, Score, Scores
from finetune.runs import Run
from finetune.scores.paired import greater_is_better
from finetune.selection.compare import Comparison
from finetune.selection.crossval import CrossValidation
from finetune.selection.fold_scores import FoldsScore, RecipeResult
from finetune.selection.search import SearchResult
from finetune.selection.seeds import SeedStudy

OF_REAL_IMAGES = ("coverage", "recall", "train_on_synthetic")  # scores that a paired test of images can have


def comparison_sentences(comparison: Comparison, language: Language = "en") -> list[str]:
    """Whether one run is better than the others, and what a reader must know of choosing it here."""
    words = Words(language)
    if not comparison.tests and is_of_image(comparison.metric):
        return [_of_images(comparison, words)]
    if not comparison.tests:
        return [words("compare.none", metric=comparison.metric)]
    best, against = best_run(comparison)
    rival, test = next(iter(against.items()))
    unshown = [named_test(name, each, usual=test.metric) for name, each in against.items() if not each.better]
    ours = next(run.scores.get(test.metric) for run in comparison.runs if run.name == best)
    values = {
        "first": best,
        "second": rival,
        "metric": test.metric,
        "ours": score_text(ours, test.metric),
        "theirs": number(test.second, test.metric),
        "test": words("difference_of", difference=difference_text(test), p=p_text(p_of(test))),
    }
    if len(comparison.runs) == 2:
        sides = words(
            "compare.sides_texts" if is_of_text(test.metric) else "compare.sides",
            documents=f"{comparison.documents:,}",
            only_first=f"{test.only_first_right:,}",
            only_second=f"{test.only_second_right:,}",
            first=best,
            second=rival,
        )
        return [words("compare.better" if test.better else "compare.chance", **values), sides]
    key = "compare.some" if unshown else "compare.best"
    return [words(key, others=words.listed(unshown), **values), words("compare.winner", n=len(comparison.runs))]


def _of_images(comparison: Comparison, words: Words) -> str:
    """The runs in their order, without a verdict: nothing was tested."""
    scores = [
        words("compare.value", name=run.name, value=score_text(run.scores.get(comparison.metric), comparison.metric))
        for run in comparison.runs
    ]
    return words("compare.images", metric=comparison.metric, scores=words.listed(scores))


def crossval_sentences(result: CrossValidation, language: Language = "en") -> list[str]:
    """The best recipe against the baselines, then the recipes against each other or the spread of the folds."""
    words = Words(language)
    best = next(recipe for recipe in result.recipes if recipe.name == result.best)
    return [_folds_against_baselines(best, result, words), _among_recipes(best, result, words)]


def seeds_sentences(study: SeedStudy, language: Language = "en") -> list[str]:
    """How the seeds stand to the highest baseline, and what their deviation means."""
    words, rival = Words(language, of_images=is_of_images(study.scores)), highest_baseline(study)
    if rival is None:
        return [words("seeds.alone", **_over_seeds(study, study.metric)), words("seeds.about")]
    metric, (name, theirs) = metric_beside_baselines(study), rival
    told = _over_seeds(study, metric) | {"baseline": name, "theirs": number(theirs, metric)}
    key = {0: "seeds.none", len(study.runs): "seeds.ahead"}.get(seeds_ahead(study), "seeds.some")
    of_own = words.of_images and metric != study.metric
    own = [words("seeds.own", **_over_seeds(study, study.metric))] if of_own else []
    return [words(key, **told, ahead=seeds_ahead(study)), *own, words("seeds.about")]


def search_sentences(result: SearchResult, language: Language = "en") -> list[str]:
    """The winner's validation value and test score, then its settings and what became of the other trials."""
    words = Words(language)
    value = next((trial.value for trial in result.trials if trial.number == result.winner), None)
    states = [trial.status for trial in result.trials]
    return [
        words(
            "search.winner",
            winner=result.winner,
            n=len(result.trials),
            metric=result.metric,
            value=plain_score(value, result.metric),
            test=score_text(result.test.get(result.metric), result.metric),
        ),
        words(
            "search.settings",
            overrides=words.listed(result.overrides),
            complete=states.count("complete"),
            pruned=states.count("pruned"),
            failed=states.count("failed"),
        ),
    ]


def winner_scores(result: SearchResult, folder: Path) -> Scores | None:
    """What the winner's own run says, against its baselines too; None where its folder is gone."""
    run = Run(folder / "trials" / str(result.winner))
    return run.read(run.scores, Scores) if run.scores.is_file() else None


def best_run(comparison: Comparison) -> tuple[str, dict[str, PairedTest]]:
    """The run with the best score, and its tests against each other one, the next best first."""
    best = comparison.tests[0].first  # pairs are in the order of the scores
    return best, {pair.second: pair.test for pair in comparison.tests if pair.first == best}


def metric_beside_baselines(study: SeedStudy) -> str:
    """What seeds and baselines are compared by: the metric by which one run is tested against them."""
    if is_of_images(study.scores):
        return study.metric if study.metric in OF_REAL_IMAGES else "coverage"
    return compared_by(study.metric, study.scores)


def highest_baseline(study: SeedStudy) -> tuple[str, float] | None:
    """The baseline with the best test score, and that score; a study has no one validation to name it by.

    Of images those alone that are to be beaten: neither copies of training images nor real ones.
    """
    metric = metric_beside_baselines(study)
    known = {
        name: value
        for name, scores in study.baselines.items()
        if name not in (COPIES, FLOOR) and (value := scores.get(metric)) is not None
    }
    if not known:
        return None
    best = (max if greater_is_better(metric) else min)(known, key=lambda name: known[name])
    return best, known[best]


def seeds_ahead(study: SeedStudy) -> int:
    """How many seeds have a better score than the highest baseline."""
    metric = metric_beside_baselines(study)
    rival, found = highest_baseline(study), study.scores.get(metric)
    if rival is None or found is None:
        return 0
    sign = 1 if greater_is_better(metric) else -1
    return sum(value is not None and sign * (value - rival[1]) > 0 for value in found.values)


def crossval_outcome(result: CrossValidation) -> Outcome:
    best = next(recipe for recipe in result.recipes if recipe.name == result.best)
    return "open" if best.beats_baselines is None else "good" if best.beats_baselines else "bad"


def comparison_outcome(comparison: Comparison) -> Outcome:
    """Good where the best run is better than every other one."""
    if not comparison.tests:
        return "open"
    return "good" if all(test.better for test in best_run(comparison)[1].values()) else "open"


def seeds_outcome(study: SeedStudy) -> Outcome:
    if highest_baseline(study) is None:
        return "open"
    return "good" if seeds_ahead(study) == len(study.runs) else "bad"


def fold_score(found: FoldsScore | None, *, documents: int) -> Score:
    """The mean of folds with its corrected interval, in the shape of any score."""
    if found is None:
        return Score(value=None, n=documents)
    return Score(value=found.mean, low=found.low, high=found.high, n=documents, note=found.note)


def _over_seeds(study: SeedStudy, metric: str) -> dict[str, object]:
    """The values of one score over the seeds, in words."""
    found = study.scores.get(metric)
    values = [value for value in (found.values if found else []) if value is not None]
    return {
        "n": len(study.runs),
        "metric": metric,
        "mean": plain_score(found.mean if found else None, metric),
        "deviation": plain_score(found.deviation if found else None, metric),
        "low": plain_score(min(values, default=None), metric),
        "high": plain_score(max(values, default=None), metric),
    }


def _folds_against_baselines(best: RecipeResult, result: CrossValidation, words: Words) -> str:
    tests = best.baseline_tests
    metric = next((test.metric for test in tests.values()), result.metric)
    told = {
        "name": best.name,
        "folds": result.folds * result.repeats,
        "metric": metric,
        "ours": score_text(fold_score(best.scores.get(metric), documents=result.documents), metric),
    }
    if not tests:
        return words("cv.alone", **told)
    if unshown := [named_test(name, test) for name, test in tests.items() if not test.better]:
        return words("cv.not", others=words.listed(unshown), **told)
    strongest = best.strongest_baseline if best.strongest_baseline in tests else next(iter(tests))
    test = tests[strongest]
    told |= {"baseline": strongest, "theirs": number(test.second, metric), "difference": difference_text(test)}
    return words("cv.beats", p=p_text(p_of(test)), **told)


def _among_recipes(best: RecipeResult, result: CrossValidation, words: Words) -> str:
    if len(result.recipes) > 1:
        unshown = [named_test(name, test) for name, test in result.tests.items() if not test.better]
        shown = [named_test(name, test) for name, test in result.tests.items() if test.better]
        key = "cv.unclear" if unshown else "cv.best"
        return words(key, n=len(result.recipes), name=best.name, others=words.listed(unshown or shown))
    found = best.scores.get(result.metric)
    values = [value for value in (found.values if found else []) if value is not None]
    return words(
        "cv.spread",
        low=plain_score(min(values, default=None), result.metric),
        high=plain_score(max(values, default=None), result.metric),
        deviation=plain_score(found.deviation if found else None, result.metric),
        pooled=plain_score(found.pooled if found else None, result.metric),
    )
