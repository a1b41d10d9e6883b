"""The report: sound HTML that loads nothing, every text escaped, the same in two languages, whatever a folder lacks."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_reader import Page
from tiny_reports import (
    LABELS,
    SCRIPT,
    paired,
    split_scores,
    tiny_comparison,
    tiny_crossval,
    tiny_run,
    tiny_scores,
    tiny_search,
    tiny_seeds,
    tiny_writer_run,
)

from finetune.data.text_steps import visible
from finetune.errors import CheckpointError
from finetune.recipe import Report
from finetune.report import strings, writing
from finetune.report.comparison_page import render_comparison
from finetune.report.label_parts import _slice_name
from finetune.report.many_pages import _steps, render_crossval, render_search, render_seeds
from finetune.report.many_sentences import (
    comparison_sentences,
    crossval_sentences,
    search_sentences,
    seeds_sentences,
)
from finetune.report.page import document, tag
from finetune.report.plots import strip_axis, strip_scale, thinned, ticks
from finetune.report.run_page import render_run
from finetune.report.sentences import outcome, verdict_sentences
from finetune.report.strings import WORDS, Language, Words
from finetune.report.writing import write_report
from finetune.run_files import FitVerdict, Score, Scores, Slice
from finetune.runs import Run, write_json
from finetune.scores.slices import BLANK, MANY_WINDOWS, OTHERS

REPORT = Path(strings.__file__).parent
FILES_OF_WORDS = ("strings.py", "text_strings.py", "image_strings.py")
LANGUAGES: tuple[Language, ...] = get_args(Language)
MANY_LABELS = [f"label {number}" for number in range(200)]
BASE_SCORES = tiny_scores()


def multi_label_scores() -> Scores:
    scores = split_scores(0.6, labels=LABELS, multi_label=True)
    calibration = BASE_SCORES.calibration
    assert calibration is not None
    return tiny_scores(
        splits={"validation": scores, "test": scores},
        calibration=calibration.model_copy(update={"thresholds": {SCRIPT: 0.31}}),
    )


RUNS: dict[str, dict[str, Any]] = {
    "whole": {},
    "old": {"old": True},
    "bare": {"bare": True, "old": True},
    "trial": {"test": False},
    "no baselines": {"baselines": {}, "baseline_tests": {}, "strongest_baseline": None, "beats_baselines": None},
    "200 labels": {"labels": MANY_LABELS},
    "30 labels": {"labels": MANY_LABELS[:30]},
    "multi-label": {"splits": multi_label_scores().splits, "calibration": multi_label_scores().calibration},
    "no fit": {"fit": None, "calibration": None, "best_epoch": None},
    "selected by loss": {"metric_for_best_model": "loss"},
    "selected by what is undefined": {"metric_for_best_model": "roc_auc", "baseline_tests": {}},
}
WRITERS: dict[str, dict[str, Any]] = {
    "writer": {},
    "writer by loss": {"metric": "loss", "form": "pairs", "epochs": 12},
    "writer by perplexity": {"metric": "perplexity", "form": "text"},
    "writer bare": {"bare": True, "fit": None},
    "writer of a trial": {"test": False, "form": "chat"},
    "writer without baselines": {
        "baselines": {}, "baseline_tests": {}, "strongest_baseline": None, "beats_baselines": None, "epochs": 0
    },
}  # fmt: skip
MANY: dict[str, Callable[[Path, Language], str]] = {
    "comparison": lambda folder, language: render_comparison(tiny_comparison(), folder, language),
    "comparison of three": lambda folder, language: render_comparison(
        tiny_comparison(("a", "b", SCRIPT), better=False), folder, language
    ),
    "cross-validation": lambda folder, language: render_crossval(tiny_crossval(), folder, language),
    "recipes": lambda folder, language: render_crossval(tiny_crossval(("a", SCRIPT), better=False), folder, language),
    "seeds": lambda folder, language: render_seeds(tiny_seeds(), folder, language),
    "search": lambda folder, language: render_search(tiny_search(), folder, language),
}


@pytest.fixture(params=[*RUNS, *WRITERS, *MANY])
def render(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Language], str]:
    """A page of every kind, of folders whole and poor."""
    if request.param in MANY:
        return lambda language: MANY[request.param](tmp_path, language)
    if request.param in WRITERS:
        run = tiny_writer_run(tmp_path / "run", **WRITERS[request.param])
    else:
        run = tiny_run(tmp_path / "run", **RUNS[request.param])
    return lambda language: render_run(run, language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_page_is_sound(render: Callable[[Language], str], language: Language) -> None:
    html = render(language)
    page = Page(html)
    names = [name for name, _ in page.seen]
    assert html.startswith("<!DOCTYPE html>\n<html lang=")
    assert names.count("h1") == names.count("title") == names.count("main") == 1
    levels = [int(name[1]) for name in names if re.fullmatch("h[1-6]", name)]
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels)), "a heading is skipped"
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.values("href") if link.startswith("#")} <= set(ids)
    assert all(found.get("scope") in ("row", "col") for name, found in page.seen if name == "th")
    drawings = [found for name, found in page.seen if name == "svg"]
    assert all(found.get("aria-hidden") == "true" or found.get("aria-label") for found in drawings)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_page_runs_or_loads_anything(render: Callable[[Language], str], language: Language) -> None:
    html = render(language)
    page = Page(html)
    assert not {"script", "iframe", "img", "link", "object", "embed", "base", "form"} & {name for name, _ in page.seen}
    assert not [key for _, found in page.seen for key in found if key.startswith("on") or key in ("src", "srcset")]
    assert not re.search(r"https?:|url\(|@import|javascript:", html)
    policy = next(found for name, found in page.seen if "http-equiv" in found)
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert all(link.startswith("#") or link.endswith("/report.html") for link in page.values("href"))


def test_a_page_is_the_same_every_time(render: Callable[[Language], str]) -> None:
    assert render("en") == render("en")


def test_a_chinese_page_holds_no_english_sentence_of_ours(render: Callable[[Language], str]) -> None:
    shown = "\n".join([*Page(render("zh")).ours, *Page(render("zh")).values("aria-label")])
    for key, (english, chinese) in WORDS.items():
        literal = max((piece for piece, *_ in string.Formatter().parse(english)), key=len).strip()
        if literal.count(" ") >= 2 and literal not in chinese:
            assert literal not in shown, key


def test_labels_and_texts_are_shown_not_run(tmp_path: Path) -> None:
    page = Page(render_run(tiny_run(tmp_path / "run"), "en"))
    assert page.text.count(SCRIPT) > 10
    assert '"quoted" text & <img src=x onerror=alert(2)>' in page.text
    assert "with a\\x07bell, a\\u202eturn" in page.text
    assert "secret" not in page.text  # texts of leaking rows stay out of the page


def test_the_first_screen_has_verdict_scores_and_baselines(tmp_path: Path) -> None:
    page = Page(render_run(tiny_run(tmp_path / "run"), "en"))
    first = page.text[: page.text.index("Confusion matrix")]
    assert first.index("beats every baseline") < first.index("overfits from epoch 3") < first.index("This model\n")
    for shown in ("0.628", "~[0.590, 0.664]", "TF-IDF + logistic regression", "[0.564, 0.638]", "p = 0.021"):
        assert shown in first
    assert "coverage was as low as 91 %" in first
    assert "No interval is computed for log_loss." in first and "log_loss: 2 true answers had probability 0." in first


def test_everything_below_is_there(tmp_path: Path) -> None:
    text = Page(render_run(tiny_run(tmp_path / "run"), "en")).text
    for shown in (
        *("TPR", "FPR", "TNR", "FNR", "Temperature 1.400", "expected calibration error", "by length", "by group"),
        *("Most confident mistakes", "The passage that decided", "selected on", "drop_empty", "Leak report"),
        *(
            "400",
            "train, at the end",
            "finetune train",
            "training.num_train_epochs=2",
            "abc",
            "18.3 min",
            "language: en",
        ),
    ):
        assert shown in text, shown
    command = next(line for line in text.splitlines() if "augmentation" in line and "finetune" in line)
    assert command.endswith("/run/recipe.yaml 'augmentation={copies: 1, delete: 0.1}'")


def test_the_four_rates_have_their_intervals(tmp_path: Path) -> None:
    text = Page(render_run(tiny_run(tmp_path / "run"), "en")).text
    rates = text[text.index("The four rates") : text.index("Temperature 1.4")]
    for shown in ("[0.510, 0.890]", "[0.020, 0.130]", "[0.870, 0.980]", "[0.110, 0.490]"):  # TPR, FPR, TNR, FNR
        assert shown in rates


def test_validation_scores_are_labelled_as_selected_on(tmp_path: Path) -> None:
    text = Page(render_run(tiny_run(tmp_path / "run", test=False), "en")).text
    assert "The test split was not opened" in text
    assert "which chose the epoch: optimistic, not a result" in text
    assert "Scores on the test split" not in text and "the test documents" not in text


def test_many_labels_have_a_list_instead_of_a_matrix(tmp_path: Path) -> None:
    few, many = (tiny_run(tmp_path / str(count), labels=MANY_LABELS[:count]) for count in (30, 31))
    assert "Confusion matrix" in render_run(few, "en")
    page = render_run(many, "en")
    assert "Confusion matrix" not in page and "30 of 31 confused pairs of labels" in page


def test_several_labels_have_no_matrix_and_show_thresholds(tmp_path: Path) -> None:
    text = Page(render_run(tiny_run(tmp_path / "run", **RUNS["multi-label"]), "en")).text
    assert "so there is no confusion matrix" in text and "0.310" in text and "TPR" in text


# ---- the sentences


def test_the_first_sentence_when_every_baseline_is_beaten() -> None:
    assert verdict_sentences(BASE_SCORES) == [
        "This model beats every baseline: test f1_macro 0.628 ~[0.590, 0.664]; the strongest on validation, "
        "tfidf_logistic, has "
        "0.602 (paired difference +0.026 [+0.004, +0.049], p = 0.021).",
        "The model overfits from epoch 3 (validation loss rose from 0.412 at epoch 2 to 0.731, training loss fell from "
        "0.690 to 0.120); first to try: training.num_train_epochs=2.",
    ]
    assert outcome(BASE_SCORES) == "good"


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        (
            {"majority": paired(0.628, 0.4), "tfidf_logistic": paired(0.628, 0.602, p=0.2, better=False)},
            "This model does NOT beat the strongest baseline on validation, tfidf_logistic: test f1_macro "
            "0.628 ~[0.590, 0.664] "
            "against 0.602 (paired difference +0.026 [+0.004, +0.049], p = 0.200), which may be chance; it is ahead of "
            "majority.",
        ),
        (
            {"tfidf_logistic": paired(0.628, 0.7, p=0.0001, better=False)},
            "This model does NOT beat the strongest baseline on validation, tfidf_logistic, and is worse: "
            "test f1_macro 0.628 "
            "~[0.590, 0.664] against 0.700 (paired difference -0.072 [-0.094, -0.049], p < 0.001).",
        ),
        (
            {"majority": paired(0.628, 0.62, p=0.12, better=False), "tfidf_logistic": paired(0.628, 0.602)},
            "This model does NOT beat every baseline: it is ahead of the strongest on validation, "
            "tfidf_logistic (test f1_macro "
            "0.628 ~[0.590, 0.664] against 0.602, +0.026 [+0.004, +0.049], p = 0.021), but not of majority (+0.008, "
            "p = 0.120).",
        ),
        (
            {"majority": paired(0.628, 0.4), "tfidf_logistic": paired(0.628, 0.628, p=1.0, better=False)},
            "This model does NOT beat the strongest baseline on validation, tfidf_logistic: both have test "
            "f1_macro 0.628; it is "
            "ahead of majority.",
        ),
    ],
)
def test_what_is_not_beaten_comes_first(tests: dict[str, Any], said: str) -> None:
    scores = tiny_scores(baseline_tests=tests, beats_baselines=False)
    assert verdict_sentences(scores)[0] == said
    assert outcome(scores) == "bad"
    assert verdict_sentences(scores, "zh")[0].startswith("本模型未能胜过")


def test_a_worse_loss_is_a_worse_model() -> None:
    test = paired(0.9, 0.7, p=0.001, better=False, metric="log_loss")
    scores = tiny_scores(baseline_tests={"tfidf_logistic": test}, beats_baselines=False)
    assert "and is worse: test log_loss" in verdict_sentences(scores)[0]


def test_old_runs_say_that_nothing_was_tested() -> None:
    ahead = tiny_scores(old=True)
    assert "no paired test was made, so the difference may be chance" in verdict_sentences(ahead)[0]
    assert verdict_sentences(ahead)[1].startswith("Epoch 2 was chosen by validation f1_macro")
    assert outcome(ahead) == "open"
    best = {split: split_scores(0.7) for split in ("validation", "test")}
    behind = tiny_scores(old=True, baselines={"majority": best})
    assert verdict_sentences(behind)[0].startswith(
        "This model does NOT beat the strongest baseline on validation, majority"
    )
    assert outcome(behind) == "bad"


def test_a_run_selected_by_loss_is_compared_by_log_loss(tmp_path: Path) -> None:
    scores = tiny_scores(old=True, metric_for_best_model="loss")
    assert (
        "beat the strongest baseline" in verdict_sentences(scores)[0]
        and "test log_loss" in verdict_sentences(scores)[0]
    )
    text = Page(render_run(tiny_run(tmp_path / "run", old=True, metric_for_best_model="loss"), "en")).text
    assert text.index("log_loss ↓") < text.index("Majority label") < text.index("Confusion matrix")


def test_without_baselines_or_test_the_sentence_says_so() -> None:
    assert "no baseline was scored" in verdict_sentences(tiny_scores(old=True, baselines={}))[0]
    assert verdict_sentences(tiny_scores(test=False))[0].startswith(
        "The test split was not opened: validation f1_macro"
    )
    undefined = tiny_scores(old=True, metric_for_best_model="roc_auc")
    assert verdict_sentences(undefined)[0] == "Test roc_auc is undefined: undefined for a class that no document has."


@pytest.mark.parametrize("state", get_args(FitVerdict.model_fields["state"].annotation))
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_verdict_on_the_fit_has_its_sentence(state: Any, language: Language) -> None:
    bare = FitVerdict(state=state, since_epoch=2.0)
    named = FitVerdict(state=state, since_epoch=2.0, evidence={"gap_growth": 0.31, "new_number": 4.0})
    sentences = [verdict_sentences(tiny_scores(fit=fit), language)[1] for fit in (bare, named)]
    assert "0.310" in sentences[1] and "new_number 4" in sentences[1]
    assert all("{" not in sentence for sentence in sentences)


def test_two_runs() -> None:
    better, chance = tiny_comparison(("a", "b")), tiny_comparison(("a", "b"), better=False)
    assert comparison_sentences(better) == [
        "a is better than b: test f1_macro 0.700 ~[0.662, 0.736] against 0.600 (paired difference +0.100 "
        "[+0.078, +0.123], p = 0.021).",
        "Of the same 400 documents, a alone gets 31 right and b alone 18.",
    ]
    assert comparison_sentences(chance)[0].startswith("NO difference is shown: a has test f1_macro")


def test_more_runs_are_told_that_choosing_biases() -> None:
    assert "the next, b, has 0.600" in comparison_sentences(tiny_comparison(("a", "b", "c")))[0]
    first, second = comparison_sentences(tiny_comparison(("a", "b", "c"), better=False))
    assert "NOT shown to be better than b (+0.100, p = 0.021), c (+0.200, p = 0.021)" in first
    assert "biases its score upwards" in second


def test_folds() -> None:
    assert crossval_sentences(tiny_crossval())[0].startswith(
        "bert beats every baseline over 3 folds: mean f1_macro 0.700"
    )
    assert "range from 0.680 to 0.720" in crossval_sentences(tiny_crossval())[1]
    first, second = crossval_sentences(tiny_crossval(("a", "b"), better=False))
    assert first.startswith("a does NOT beat every baseline") and "NOT shown to be better than b" in second


def test_seeds() -> None:
    assert seeds_sentences(tiny_seeds())[0].startswith("Every one of 3 seeds is ahead of the highest baseline")
    assert seeds_sentences(tiny_seeds(0.5, 0.7))[0].startswith("NOT every seed is ahead")
    assert "but 1 of 2" in seeds_sentences(tiny_seeds(0.5, 0.7))[0]
    assert seeds_sentences(tiny_seeds(0.5, 0.5))[0].startswith("NONE of 2 seeds is ahead of the highest baseline")


def test_a_search() -> None:
    first, second = search_sentences(tiny_search())
    assert first.startswith(
        "Trial 3 is the best of 6: validation f1_macro 0.650; on test, which it alone opened, 0.620"
    )
    assert "4 were completed, 1 pruned and 1 failed" in second


# ---- the words


def test_both_languages_have_the_same_placeholders() -> None:
    def names(text: str) -> list[str]:
        return sorted(name for _, name, *_ in string.Formatter().parse(text) if name)

    for key, (english, chinese) in WORDS.items():
        assert names(english) == names(chinese), key
        assert english and chinese


def test_no_word_is_missing_and_none_is_left_over() -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8") for path in REPORT.glob("*.py") if path.name not in FILES_OF_WORDS
    )
    for key in re.findall(r"words\([\"']([^\"'{]+)[\"'][,)]", code):
        assert key in WORDS, key
    made = {
        "baseline",
        "drawn_score",
        "evidence",
        "given",
        "opened_by",
        "score",
        "slices",
        "split",
        "stage",
        "task",
        "why",
    }
    for key in WORDS:
        dynamic = any(f'f"{key[:place]}.{{' in code for place in range(len(key)) if key[place] == ".")
        assert (
            key in ("comma",) or re.search(f"[\"']{re.escape(key)}[\"']", code) or dynamic or key.split(".")[0] in made
        ), key


def test_the_languages_are_those_of_the_recipe() -> None:
    assert get_args(Report.model_fields["language"].annotation) == LANGUAGES
    assert Words("zh").why("overfitting", "training.num_train_epochs=2", "x") == ("在验证损失最低处停止", None)
    assert Words("zh").why("overfitting", "unheard.of=2", "why") == ("why", "en")
    assert Words("en").why("overfitting", "training.num_train_epochs=2", "why") == ("why", None)


# ---- elements and plots


@given(st.text())
def test_any_text_comes_out_as_text(text: str) -> None:
    page = Page(f"{tag('b', text, title=text).html}")
    shown = "\n".join(visible(line, len(line)) for line in text.split("\n"))
    assert [name for name, _ in page.seen] == ["b"]
    assert page.seen[0][1]["title"] == shown
    assert "".join(page.texts) == (shown if shown.strip() else "")


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("script", {}),
        ("img", {}),
        ("p", {"onclick": "x"}),
        ("p", {"src": "x"}),
        ("a", {"href": "javascript:x"}),
        ("a", {"href": "https://x"}),
        ("a", {"href": "//x"}),
    ],
)
def test_what_could_run_or_load_is_refused(name: str, attributes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"no place|could run|its own parts"):
        tag(name, **attributes)


def test_a_document_names_its_language() -> None:
    assert '<html lang="zh-Hans">' in document("x", words=Words("zh"))


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_enclose(low: float, span: float) -> None:
    found = ticks(low, low + span)
    slack = 1e-6 * max(abs(low), span, 1e-6)
    assert found[0] <= low + slack and found[-1] >= low + span - slack
    assert found == sorted(set(found)) and 2 <= len(found) <= 9


@given(st.floats(0, 100), st.floats(0.001, 100))
def test_the_numbers_above_strips_stand_at_their_places(low: float, span: float) -> None:
    scale = strip_scale([Score(value=low + span, low=low, high=low + span, n=9)])
    assert scale is not None
    found = [
        (float(place), float(mark)) for place, mark in re.findall(r'x="([\d.]+)"[^>]*>([^<]+)<', strip_axis(scale).html)
    ]
    assert len(found) >= 2
    for place, mark in found:
        share = (mark - scale.low) / (scale.high - scale.low)
        assert place == pytest.approx(scale.first + share * (scale.last - scale.first), abs=0.1)


def test_long_lines_are_thinned() -> None:
    points = [(float(x), 1.0 if x < 5000 else 3.0) for x in range(10_000)]
    thin = thinned(points)
    assert len(thin) == 160 and thin[-1] == points[-1]
    assert {y for _, y in thin} == {1.0, 3.0}
    assert thinned(points[:160]) == points[:160]


# ---- writing


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards that say whose they are; what a real one says is tested beside model_card.py."""

    def render(run: Run, *, which: str) -> str:
        return f"{run.name} {which}"

    monkeypatch.setattr(writing, "render_model_card", render)


@pytest.mark.usefixtures("cards")
def test_the_page_and_the_cards_are_written(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", language="zh")
    run.best.mkdir()
    run.last.mkdir()
    assert write_report(run.folder) == run.report
    found = {place: (place / "README.md").read_text(encoding="utf-8") for place in (run.folder, run.best, run.last)}
    assert found == {run.folder: "run best", run.best: "run best", run.last: "run last"}
    assert "本模型优于所有基线" in run.report.read_text(encoding="utf-8")
    assert "beats every baseline" in write_report(run.folder, "en").read_text(encoding="utf-8")
    assert sorted(path.name for path in run.folder.iterdir() if path.name.startswith(".")) == []


@pytest.mark.usefixtures("cards")
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("comparison.json", tiny_comparison()),
        ("crossval.json", tiny_crossval()),
        ("seeds.json", tiny_seeds()),
        ("search.json", tiny_search()),
    ],
)
def test_a_folder_of_many_runs_is_told_by_its_file(tmp_path: Path, file: str, content: Any) -> None:
    write_json(tmp_path / file, content)
    inside = [tiny_run(tmp_path / parent / "3", language="zh", test=False) for parent in ("folds", "trials", "seeds")]
    (tmp_path / "trials" / "4").mkdir()
    write_json(tmp_path / "trials" / "4" / "run.json", {"status": "failed"})
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert '<html lang="zh-Hans">' in page  # as the first run inside has it
    assert all(run.report.is_file() for run in inside)
    assert not (tmp_path / "trials" / "4" / "report.html").exists()
    assert ("3/report.html" in page) == (file in ("crossval.json", "search.json"))


@pytest.mark.usefixtures("cards")
def test_foreign_and_unfinished_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has none of run\.json, comparison\.json"):
        write_report(tmp_path)
    with pytest.raises(CheckpointError, match="is not there"):
        write_report(tmp_path / "nowhere")
    run = tiny_run(tmp_path / "run", bare=True, old=True)
    run.scores.unlink()
    with pytest.raises(CheckpointError, match=r"has no scores\.json"):
        write_report(run.folder)
    run.scores.write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"is not a scores\.json"):
        write_report(run.folder)
    assert not run.report.exists() and not run.card.exists()


def test_damaged_data_is_named(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run")
    run.data.write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"data\.json: is not JSON"):
        render_run(Run(run.folder), "en")


def test_the_best_so_far_stays_until_a_better_trial() -> None:
    assert _steps([(0.0, 0.5), (1.0, 0.5), (2.0, 0.7)]) == [(0.0, 0.5), (1.0, 0.5), (1.0, 0.5), (2.0, 0.5), (2.0, 0.7)]


def test_slices_have_names_in_the_language_of_the_page() -> None:
    names = ["3 to 1,018 tokens", "7 tokens", MANY_WINDOWS, OTHERS, BLANK, "'others'", "北京"]
    slices = [Slice(by="length", name=name, documents=9, scores={}) for name in names]
    assert [_slice_name(each, Words("en")) for each in slices] == names
    assert [_slice_name(each, Words("zh")) for each in slices] == [
        "3 至 1,018 个词元", "7 个词元", "多于一个窗口", "其他", "（空）", "'others'", "北京"
    ]  # fmt: skip


def test_the_environment_tells_what_the_training_held(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run")
    assert "most memory" not in render_run(run, "en")  # a folder of an older version does not say
    run.update(optimizer_bytes=1_376_624, peak_memory_bytes=1_059_950_592)
    assert {"state of the optimizer", "1.4 MB", "most memory while training", "1.1 GB"} <= {
        *Page(render_run(run, "en")).ours
    }
    assert {"优化器状态", "训练时最高内存"} <= {*Page(render_run(run, "zh")).ours}
