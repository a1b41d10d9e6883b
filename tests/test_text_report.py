"""What is told of a text generator: its page, its card, its last screen and its curves."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import yaml  # type: ignore[import-untyped]
from huggingface_hub import ModelCard
from matplotlib.figure import Figure
from page_reader import Page
from tiny_reports import (
    SCRIPT,
    TEXT_BASELINES,
    paired,
    text_split_scores,
    text_test,
    tiny_comparison,
    tiny_search,
    tiny_seeds,
    tiny_text_scores,
    tiny_writer_run,
)
from tiny_writers import write_recipe
from transformers import pipeline

from finetune import figures
from finetune.experiment import train
from finetune.recipe_file import load_recipe
from finetune.report.comparison_page import render_comparison
from finetune.report.many_pages import render_search, render_seeds
from finetune.report.many_sentences import comparison_sentences, search_sentences, seeds_sentences
from finetune.report.model_card import render_model_card
from finetune.report.run_page import render_run
from finetune.report.scoring_command import bleu_tokenizer, scoring_command
from finetune.report.sentences import number, signed, verdict_sentences
from finetune.report.strings import WORDS
from finetune.report.text_parts import _shown_epochs
from finetune.report.writing import write_report
from finetune.run_files import Analysis, PairedTest, Scores, Suggestion
from finetune.runs import Run, write_json, write_table, write_text
from finetune.scores.generation import score_texts, signatures, text_statistics
from finetune.scores.text_metrics import LOSS_METRICS, TEXT_METRICS
from finetune.selection.seeds import SeedsScore
from finetune.summary import render_summary

FORMS = ("pairs", "chat", "seq2seq", "text")
OF_LABELS = ("Confusion", "Precision", "TPR", "Temperature", "McNemar", "f1_macro", "only model right")


@pytest.fixture(scope="module", params=FORMS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A real run of every form of examples, with its report."""
    folder = tmp_path_factory.mktemp(request.param)
    run = train(load_recipe(Path(write_recipe(folder, request.param))), folder=folder / "run")
    write_report(run.folder)
    return run


def text_of(run: Run, language: Any = "en") -> str:
    return Page(render_run(run, language)).text


# ---- numbers and sentences


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("bleu", 31.42, "31.4"),
        ("chrf", 100.0, "100.0"),
        ("loss", 1.2344, "1.234"),
        ("perplexity", 1.837, "1.84"),
        ("perplexity", 12.345, "12.3"),
        ("perplexity", 2160.4, "2,160"),
        ("perplexity", 3.2e21, "3.2e+21"),
        ("rouge_l", 0.5, "0.500"),
        ("f1_macro", 0.6284, "0.628"),
        (None, 0.6284, "0.628"),
    ],
)
def test_a_score_has_the_digits_of_its_metric(metric: str | None, value: float, shown: str) -> None:
    assert number(value, metric) == shown


def test_a_difference_of_nothing_has_no_minus() -> None:
    assert (signed(-0.04, "bleu"), signed(-0.0004), signed(-0.06, "bleu"), signed(1.26, "chrf")) == (
        "+0.0", "+0.000", "-0.1", "+1.3"
    )  # fmt: skip


def test_the_verdict_names_the_metric_that_chose() -> None:
    assert verdict_sentences(tiny_text_scores())[0] == (
        "This model beats every baseline: test bleu 31.4 [29.8, 33.3]; the strongest on validation, nearest_neighbour, "
        "has 9.8 (paired difference +21.6 [+21.6, +21.6], p = 0.021)."
    )
    by_loss, training = verdict_sentences(tiny_text_scores(metric="loss"))
    assert "test loss 1.234 [1.172, 1.308]; the strongest on validation, ngram, has 1.934" in by_loss
    assert "the best score, 30.666, came at epoch 3" in training
    assert "the best score, 30.7, came at epoch 3" in verdict_sentences(tiny_text_scores())[1]


def test_a_baseline_that_is_not_beaten_is_named_with_its_own_metric() -> None:
    ours = text_split_scores(1.234, 31.42, 56.78)
    tests = {
        name: text_test(ours, text_split_scores(*values), "loss", better=name != "copy_source")
        for name, values in TEXT_BASELINES.items()
    }
    said = verdict_sentences(tiny_text_scores(metric="loss", baseline_tests=tests, beats_baselines=False))[0]
    assert "but not of copy_source (chrf +35.4, p = 0.021)." in said


def test_without_a_strongest_baseline_only_tests_of_one_metric_compare() -> None:
    tests = {
        "copy_source": paired(56.0, 21.0, metric="chrf"),
        "nearest_neighbour": paired(56.0, 33.0, metric="chrf"),
        "ngram": paired(1.2, 1.9, metric="loss"),
    }
    said = verdict_sentences(tiny_text_scores(metric="loss", baseline_tests=tests, strongest_baseline=None))[0]
    assert "the strongest on validation, nearest_neighbour, has 33.0" in said


def test_a_text_model_selected_by_loss_is_not_asked_for_log_loss() -> None:
    alone = tiny_text_scores(
        metric="loss", baselines={}, baseline_tests={}, strongest_baseline=None, beats_baselines=None
    )
    assert verdict_sentences(alone)[0].startswith("Test loss is 1.234 [1.172, 1.308] on 400 documents")
    untested = tiny_text_scores(metric="loss", baseline_tests={}, strongest_baseline=None, beats_baselines=None)
    assert "ahead of the strongest baseline on validation, ngram: test loss 1.234" in verdict_sentences(untested)[0]


# ---- the page


@pytest.mark.parametrize("metric", ["bleu", "loss"])
def test_nothing_of_labels_is_on_the_page(tmp_path: Path, metric: str) -> None:
    text = text_of(tiny_writer_run(tmp_path / "run", metric=metric))
    assert not [word for word in OF_LABELS if word in text]


def test_the_first_screen(tmp_path: Path) -> None:
    text = text_of(tiny_writer_run(tmp_path / "run", metric="loss", form="pairs"))
    first = text[: text.index("What was written after every epoch")]
    for shown in (
        "text generation · from scratch · 400 test documents", "N-gram model", "[29.8, 33.3]", "3.43", "[53.9, 60.2]",
        "perplexity ↓", "length_ratio →1", "cut_share ↓", "loss ↓",
        "bleu on validation by epoch; the loss chose the epoch",
        "Compared by chrf, because they have no loss that compares: copy_source, nearest_neighbour.", "best: 2",
        "test: texts were written for a sample of 400 of 1,000 documents.",
    ):  # fmt: skip
        assert shown in first, shown
    assert re.search(r"chrf\s+\+35\.4", first) and re.search(r"loss\s+-0\.700", first)


def test_what_was_written_stands_side_by_side(tmp_path: Path) -> None:
    text = text_of(tiny_writer_run(tmp_path / "run"))
    samples = text[text.index("The same 2 validation documents") : text.index("Nearest to the reference")]
    places = [samples.index(f"text of epoch {epoch} first line & {SCRIPT}\n  second") for epoch in (1, 2, 3)]
    assert places == sorted(places)
    assert samples.count("epoch 2, in best/ · chrF 12.3") == 2 and samples.count("nothing") == 1
    assert f"source\nprompt 0 {SCRIPT}\nreference\nreference 0\n\nof two paragraphs" in samples
    assert samples.count("cut off by the length limit") == 6


def test_many_epochs_are_thinned_and_counted(tmp_path: Path) -> None:
    text = text_of(tiny_writer_run(tmp_path / "run", epochs=30))
    assert "8 of 30 evaluations are shown" in text and "text of epoch 30 " in text and "epoch 2, in best/" in text
    for count, chosen in ((30, 1), (30, None), (9, 8), (9, 0), (9, 4)):
        shown = _shown_epochs(count, chosen)
        assert len(shown) == 8 and {0, count - 1, chosen or 0} <= set(shown) and shown == sorted(set(shown))
    assert _shown_epochs(8, 3) == list(range(8))


def test_a_document_that_was_not_written_for_is_left_out_of_that_epoch(tmp_path: Path) -> None:
    run = tiny_writer_run(tmp_path / "run")
    path = run.samples / "1" / "texts.json"
    write_text(path, json.dumps({"epoch": 1.0, "step": 10, "texts": []}))
    assert "text of epoch 1" not in text_of(run) and "text of epoch 2" in text_of(run)


def test_best_and_worst_texts(tmp_path: Path) -> None:
    run = tiny_writer_run(tmp_path / "run")
    text = text_of(run)
    best, worst = text.index("Nearest to the reference"), text.index("Farthest from the reference")
    assert best < text.index("prompt 71") < worst < text.index("prompt 72") < text.index("nothing", worst)
    write_json(run.analysis, Analysis(slices=[], notes=["report.examples is 0: no text is shown"]))
    assert "reference 71" not in text_of(run) and "no text is shown" in text_of(run)


def test_the_sequences_and_how_full_the_blocks_were(tmp_path: Path) -> None:
    text = text_of(tiny_writer_run(tmp_path / "run"))
    for shown in (
        "690 tokens of 4 documents were cut", "2 documents were dropped", "Packing filled 93.4 % of the room",
        "Lengths of the targets", "tokens learnt or scored\n4,321\n4,321", "train: 1 of 400 examples dropped",
        "limit of a sequence\n128", "filled blocks\n93.4 %",
    ):  # fmt: skip
        assert shown in text, shown


@pytest.mark.parametrize(
    ("generation", "said"),
    [
        ("{max_new_tokens: 40}", "Greedy: the likeliest token every time"),
        ("{max_new_tokens: 40, num_beams: 4}", "Beam search with 4 beams"),
        ("{do_sample: true, seed: }", "Every token is drawn, with seed 13"),
        ("{do_sample: true, seed: 5}", "Every token is drawn, with seed 5"),
        ("{examples: [{prompt: SECRET, completion: b}]}", "Before every prompt stand 1 examples"),
    ],
)
def test_how_the_texts_were_written(tmp_path: Path, generation: str, said: str) -> None:
    run = tiny_writer_run(tmp_path / "run")
    write_text(run.recipe, f"task: seq2seq\ngeneration: {generation}\n")
    text = text_of(run)
    assert said in text
    assert "tok:13a" in text and "--tokenize 13a" in text and "predictions/test.parquet" in text
    assert "SECRET" not in text[: text.index("Every setting of this run")]


def test_every_score_of_written_text_is_explained() -> None:
    assert {f"score.{name}" for name in (*TEXT_METRICS, *LOSS_METRICS)} <= WORDS.keys()


def test_the_command_on_the_page_gives_the_same_scores(tmp_path: Path) -> None:
    references = ["the cat sat\non the mat", "a  dog\r\nbarks", "狗 叫 了", "never written"]
    predictions = ["the cat sat on\rthe mat today", "a dog barks", "", None]
    write_table(tmp_path / "predictions" / "test.parquet", {"reference": references, "prediction": predictions})
    told = scoring_command(signatures("zh"), "test")
    assert told is not None
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        ["bash", "-ec", told], cwd=tmp_path, capture_output=True, text=True, check=True, env=environment
    )
    found = {each["name"]: each["score"] for each in json.loads(done.stdout)}
    written = [text for text in predictions if text is not None]
    ours = score_texts(text_statistics(references[:3], written, bleu_tokenizer="zh"))
    assert found == {"BLEU": pytest.approx(ours["bleu"], abs=1e-6), "chrF2": pytest.approx(ours["chrf"], abs=1e-6)}


def test_a_signature_names_its_tokenizer() -> None:
    for name in ("13a", "zh", "intl", "char"):
        assert bleu_tokenizer(signatures(name)["bleu"]) == name
    assert bleu_tokenizer("nrefs:1|case:mixed|eff:no|tok:ja-mecab-0.996-IPA|smooth:exp|version:2.6.0") == "ja-mecab"
    assert bleu_tokenizer("nrefs:1|tok:ko-mecab-0.996/ko-0.9.2-KO|smooth:exp") == "ko-mecab"
    assert scoring_command({}, "test") is None and scoring_command({"bleu": "tok:unheard"}, "test") is None


# ---- pages of several runs


def test_pages_of_several_runs_have_the_digits_too(tmp_path: Path) -> None:
    study = tiny_seeds(31.42, 29.0, 30.1)
    scores = {"bleu": study.scores["f1_macro"], "loss": SeedsScore(mean=1.2, deviation=0.02, values=[1.2, 1.2, 1.2])}
    runs = [
        each.model_copy(update={"scores": {"bleu": each.scores["f1_macro"], "loss": 1.2}}) for each in study.runs
    ]  # fmt: skip
    baselines = {"copy_source": {"bleu": 9.8}}
    study = study.model_copy(update={"metric": "bleu", "scores": scores, "runs": runs, "baselines": baselines})
    assert "test bleu 30.2 on average, deviation 0.0, from 29.0 to 31.4" in seeds_sentences(study)[0]
    page = Page(render_seeds(study, tmp_path, "en")).text
    assert "31.4 29.0 30.1" in page and "Copy of the source" in page and "31.420" not in page
    by_loss = study.model_copy(
        update={"metric": "loss", "baselines": {"copy_source": {"bleu": 9.8}, "ngram": {"loss": 1.9}}}
    )
    assert "ahead of the highest baseline, ngram (1.900)" in seeds_sentences(by_loss)[0]

    search = tiny_search().model_copy(
        update={"metric": "bleu", "test": text_split_scores(1.2, 31.42, 56.7).scores}
    )  # fmt: skip
    assert "validation bleu 0.7; on test, which it alone opened, 31.4 [29.8, 33.3]" in search_sentences(search)[0]
    page = Page(render_search(search, tmp_path, "en")).text
    assert "bleu, validation" in page and "56.7" in page and "accuracy" not in page

    comparison = tiny_comparison(("a", "b"))
    runs_compared = [
        each.model_copy(update={"scores": text_split_scores(1.2, value, 50.0).scores})
        for each, value in zip(comparison.runs, (31.42, 29.0), strict=True)
    ]
    tests = [pair.model_copy(update={"test": paired(31.42, 29.0, metric="bleu")}) for pair in comparison.tests]
    comparison = comparison.model_copy(
        update={"metric": "bleu", "runs": runs_compared, "tests": tests, "changed": []}
    )  # fmt: skip
    assert comparison_sentences(comparison) == [
        "a is better than b: test bleu 31.4 [29.8, 33.3] against 29.0 (paired difference +2.4 [+2.4, +2.4], "
        "p = 0.021).",
        "Of the same 400 documents, a does better on 31 and b on 18.",
    ]
    page = Page(render_comparison(comparison, tmp_path, "en")).text
    assert "first better on" in page and "only first right" not in page and "1.200" in page


# ---- the last screen


def test_the_last_screen(tmp_path: Path) -> None:
    screen = render_summary(tiny_writer_run(tmp_path / "run", metric="loss", form="pairs"))
    for shown in (
        "This model beats every baseline: test loss 1.234",
        "perplexity    nats_per_character",
        "against copy_source (chrf)",
        "model better on  baseline better on",
        "Best epoch: 2 (step 20, loss 1.234 on validation).",
        f"  given      prompt 0 {SCRIPT}\n  reference  reference 0\\n\\nof two paragraphs\n",
        "  written    text of epoch 2",
        "bleu: nrefs:1|case:mixed|eff:no|tok:13a",
        "padding 2.0% of all tokens; blocks filled 93.4%.",
    ):
        assert shown in screen, shown
    assert "precision" not in screen and "Calibrat" not in screen
    without = tiny_writer_run(tmp_path / "without", epochs=0, test=False)
    assert "Written after" not in render_summary(without) and "bleu 31.4 on validation" in render_summary(without)


def test_the_last_screen_of_a_real_run(trained: Run) -> None:
    screen = render_summary(trained)
    assert "Written after epoch" in screen and "label" not in screen and "tok:13a" in screen


# ---- the card


def test_the_front_matter_of_a_writer(trained: Run) -> None:
    text = render_model_card(trained, which="best")
    values = yaml.safe_load(text.split("---\n")[1])
    form = json.loads(trained.data.read_text(encoding="utf-8"))["form"]
    assert values["pipeline_tag"] == "text-generation" and values["library_name"] == "transformers"
    assert ("text2text-generation" in values["tags"]) == (form == "seq2seq")
    results: list[Any] = ModelCard(text).data.get("eval_results") or []
    found = {each.metric_name: each for each in results}
    scores = trained.read(trained.scores, Scores).splits["test"]
    for name, metric in (("BLEU (sacrebleu)", "bleu"), ("Perplexity", "perplexity"), ("ROUGE-L", "rouge_l")):
        assert found[name].metric_value == scores.scores[metric].value
    assert found["BLEU (sacrebleu)"].metric_args == {"signature": scores.signatures["bleu"]}


def test_the_card_of_a_writer_holds_no_text(trained: Run) -> None:
    table = pyarrow.parquet.read_table(trained.predictions("test")).to_pydict()
    card = (trained.best / "README.md").read_text(encoding="utf-8")
    assert not [text for text in (*table["reference"], *table["prediction"]) if len(text or "") > 8 and text in card]
    for word in ("Labels", "accuracy", "Calibration", "classif", str(trained.folder.parent)):
        assert word not in card, word
    for word in ("## How its texts were written and scored", "nats_per_character", "finetune predict PATH --prompt"):
        assert word in card, word


def test_the_code_on_the_card_writes_what_was_scored(trained: Run) -> None:
    """Greedy decoding in plain transformers, one prompt at a time, gives the texts of the test predictions."""
    code = re.findall(r"```python\n(.*?)\n```", render_model_card(trained, which="best"), re.DOTALL)[0]
    source = trained.folder.parent / f"{trained.folder.parent.name.rstrip('0123456789')}.jsonl"
    rows = source.read_text(encoding="utf-8").splitlines()
    table = pyarrow.parquet.read_table(trained.predictions("test")).to_pydict()
    for id, reference, prediction in list(
        zip(*(table[name] for name in ("id", "reference", "prediction")), strict=True)
    )[:3]:
        row = json.loads(rows[int(id.rpartition(":")[2]) - 1])
        if "text" in row:
            prompt = row["text"].partition(reference)[0]
        else:
            prompt = row["messages"][0]["content"] if "messages" in row else row["question"]
        asked = code.replace("PATH_OR_NAME", str(trained.best))
        for stands in ('"a prompt"', '"a question"'):
            asked = asked.replace(stands, json.dumps(prompt))
        with redirect_stdout(io.StringIO()) as shown:
            exec(asked, {})
        assert shown.getvalue()[:-1] == prediction
        if "Seq2Seq" not in code:  # transformers has no pipeline for it any more
            write = pipeline("text-generation", model=str(trained.best), device="cpu")
            asks = [{"role": "user", "content": prompt}] if "apply_chat_template" in code else prompt
            length = int(re.findall(r"max_new_tokens=(\d+)", code)[0])
            written = write(asks, max_new_tokens=length, do_sample=False, return_full_text=False)
            assert written[0]["generated_text"] == prediction


def test_settings_of_sampling_are_told_and_examples_are_not(tmp_path: Path) -> None:
    run = tiny_writer_run(tmp_path / "run", form="pairs")
    settings = {
        "form": "pairs", "windows": {"max_tokens": 1024}, "end_ids": [2],
        "generation": {"max_new_tokens": 9, "do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0,
                       "no_repeat_ngram_size": 3, "examples": [{"prompt": "SECRET", "completion": "HIDDEN"}]},
    }  # fmt: skip
    write_json(run.best / "finetune.json", settings)
    text = render_model_card(run, which="best")
    told = "max_new_tokens=9, do_sample=True, num_beams=1, repetition_penalty=1.0, temperature=0.7, top_p=0.9, top_k=0"
    assert f"{told}, no_repeat_ngram_size=3,\n)" in text and "eos_token_id" not in text
    assert "SECRET" not in text and "HIDDEN" not in text and "1 examples stood before every prompt" in text
    assert "Documents cut to fit: train 2, test 2." in text and "Packing filled 93.4% of the blocks." in text
    assert "at most 1,024 tokens" in text and "| Copy of the source | 3.2 [3.0, 3.4] |  | 21.4" in text


def test_a_card_of_the_last_weights_tells_their_scores(tmp_path: Path) -> None:
    run = tiny_writer_run(tmp_path / "run")
    text = render_model_card(run, which="last")
    assert "30.0 [28.5, 31.8]" in text and "Only the model in `best/` was compared" in text


# ---- curves


@pytest.mark.parametrize(
    ("metric", "drawn"),
    [
        ("bleu", ["bleu", "chrf"]),
        ("loss", ["bleu", "chrf"]),
        (None, ["bleu", "chrf"]),
        ("perplexity", ["perplexity"]),
        ("rouge_l", ["rouge_l"]),
    ],
)
def test_curves_of_a_writer_share_a_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str | None, drawn: list[str]
) -> None:
    saved: list[Figure] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: saved.append(figure))
    history = tiny_writer_run(tmp_path / "run").history_rows()
    figures.draw_curves(history, tmp_path / "curves.png", best_epoch=None, metric=metric)
    losses, scores = saved[0].axes
    assert [line.get_label() for line in losses.get_lines()] == ["training", "validation"]
    assert [line.get_label() for line in scores.get_lines()] == drawn


def test_a_writer_that_wrote_nothing_has_its_perplexity_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Figure] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: saved.append(figure))
    rows = [{"epoch": 1.0, "eval_loss": 1.0, "eval_perplexity": 2.7, "eval_nats_per_character": 0.3}]
    figures.draw_curves(rows, tmp_path / "curves.png", best_epoch=None, metric="loss")
    assert [line.get_label() for line in saved[0].axes[1].get_lines()] == ["perplexity"]


def test_suggestions_stand_as_commands(tmp_path: Path) -> None:
    scores = tiny_text_scores()
    assert scores.fit is not None
    fit = scores.fit.model_copy(update={"suggestions": [Suggestion(override="training.num_train_epochs=9", why="x")]})
    text = text_of(tiny_writer_run(tmp_path / "run", fit=fit))
    assert "finetune train" in text and "training.num_train_epochs=9" in text and "best validation score\n30.7" in text


def test_a_test_of_text_names_documents_not_rights(tmp_path: Path) -> None:
    test: PairedTest = paired(31.42, 9.8, metric="bleu").model_copy(update={"p_mcnemar": None})
    text = text_of(tiny_writer_run(tmp_path / "run", baseline_tests={"nearest_neighbour": test}))
    assert "model better on" in text and "bleu on the same test documents" in text
    assert "A document counts for the side whose own score on it is better" in text
