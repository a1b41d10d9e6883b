"""A writer's baselines: asked for the same tokens and the same documents as the model, and few shots put before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_learners import CHATS, PAIRS, SEQ2SEQ, TEXT, tiny_learner
from tiny_models import tiny_writer_folder

from finetune.few_shot import few_shot_answer, few_shot_prompt
from finetune.progress import SILENT
from finetune.recipe import DEFAULT_TEXT_BASELINES, Shot, TextBaselineName
from finetune.run_files import Score, SplitScores
from finetune.runs import Run
from finetune.text_opponents import (
    TEXT_BASELINES,
    TextOpponents,
    drawn_examples,
    fit_text_opponents,
    start_id,
    vocabulary,
)
from finetune.training.text_inference import TextPredictions, predict_texts
from finetune.writer_learner import WriterLearner

RECIPES = {"text": TEXT, "pairs": PAIRS, "chat": CHATS, "seq2seq": SEQ2SEQ}
SPLITS = ("validation", "test")


def fitted(learner: WriterLearner, folder: Path, *names: Any) -> TextOpponents:
    return fit_text_opponents(names, learner, run=Run(folder / "run"), splits=SPLITS, progress=SILENT)


def test_every_name_of_the_recipe_is_a_baseline() -> None:
    assert set(get_args(TextBaselineName)) == set(TEXT_BASELINES)


@pytest.mark.parametrize("form", RECIPES)
def test_all_baselines_of_a_form_answer_for_the_same_tokens_and_documents(form: Any, tmp_path: Path) -> None:
    learner = tiny_learner(tmp_path, RECIPES[form], evaluation={"sample": 3})
    names = DEFAULT_TEXT_BASELINES[form]
    made = fitted(learner, tmp_path, *names)
    assert list(made.predicted) == list(made.scores) == names
    for split in SPLITS:
        own = predict_texts(learner.text_model, learner.rows[split], settings=learner.generation, written=[])
        assert own.tokens is not None and own.tokens.sum() == learner.counts[split].learnt_tokens
        written = list(learner.scorer.written(split))
        for name in names:
            predicted = made.predicted[name][split]
            assert predicted.written.tolist() == written and len(written) == 3
            assert [predicted.references[row] for row in written] == [
                learner.rows[split][row]["reference"] for row in written
            ]
            assert (predicted.characters == own.characters).all()
            assert (predicted.nats is None) == (name in ("copy_source", "nearest_neighbour"))
            if predicted.nats is not None and predicted.tokens is not None:
                assert np.isfinite(predicted.nats).all() and (predicted.nats > 0).all()
                assert (predicted.tokens == own.tokens).all()
                assert learner.scorer.paired(own, predicted, split, metric="loss").metric == "loss"
            table = pq.read_table(tmp_path / "run" / "baselines" / name / f"{split}.parquet")
            assert table.column("prediction").to_pylist() == predicted.texts
            scores = made.scores[name][split].scores
            assert scores["chrf"].n == 3 and ("loss" in scores) == (predicted.nats is not None)


def test_what_was_learnt_of_a_language_shows_in_its_loss(tmp_path: Path) -> None:
    made = fitted(tiny_learner(tmp_path, SEQ2SEQ), tmp_path, "ngram", "hidden_markov", "zero_shot")
    loss = {name: by_split["test"].scores["loss"].value or 99.0 for name, by_split in made.scores.items()}
    assert loss["ngram"] < 1.5 and loss["hidden_markov"] < 2.0 and loss["zero_shot"] > 4
    assert made.strongest("loss") == made.strongest("perplexity") == "ngram"
    assert [note.split(":")[0] for note in made.notes] == ["baseline ngram", "baseline hidden_markov"]


def test_an_ngram_model_is_asked_as_one_who_counts(tmp_path: Path) -> None:
    """All targets are alike: the first label, which follows the start token, is nearly sure, and so is the end."""
    rows = [{"source": f"s {number}", "target": "x"} for number in range(60)]
    learner = tiny_learner(tmp_path, SEQ2SEQ, rows=rows, cleaning=[])
    predicted = fitted(learner, tmp_path, "ngram").predicted["ngram"]["test"]
    assert predicted.nats is not None and predicted.tokens is not None
    assert (predicted.tokens == 2).all()  # x, and the token that ends it
    assert (predicted.nats < 0.1).all()
    assert predicted.texts.count("x") >= 7 and not predicted.cut.any()


def test_copies_and_neighbours_are_texts_of_the_data(tmp_path: Path) -> None:
    learner = tiny_learner(tmp_path, PAIRS)
    made, splits = fitted(learner, tmp_path, "copy_source", "nearest_neighbour"), learner.scorer.prepared.splits
    assert made.predicted["copy_source"]["test"].texts == splits["test"]["text"][:]
    train = dict(zip(splits["train"]["text"], splits["train"]["target"], strict=True))
    for asked, answered in zip(splits["test"]["text"], made.predicted["nearest_neighbour"]["test"].texts, strict=True):
        assert answered in train.values() and answered is not None
        assert any(word.upper() in answered.split() for word in asked.split())


def test_without_prompts_every_neighbour_is_as_near(tmp_path: Path) -> None:
    rows = [{"source": "", "target": f"answer {number}"} for number in range(20)]
    learner = tiny_learner(tmp_path, PAIRS, rows=rows, cleaning=[], data={"leaks": "warn"})
    texts = fitted(learner, tmp_path, "nearest_neighbour").predicted["nearest_neighbour"]["test"].texts
    assert texts == [learner.scorer.prepared.splits["train"][0]["target"]] * len(texts)


def test_drawn_texts_depend_on_seed_and_document_alone(tmp_path: Path) -> None:
    learner = tiny_learner(tmp_path, PAIRS)
    names = ("ngram", "hidden_markov")
    one, again = (fitted(learner, tmp_path, *names).predicted for _ in range(2))
    sampled = fitted(tiny_learner(tmp_path, PAIRS, evaluation={"sample": 2}), tmp_path, *names).predicted
    for name in names:
        assert one[name]["test"].texts == again[name]["test"].texts
        assert len(set(one[name]["test"].texts)) > 1
        for number in sampled[name]["test"].written:
            assert sampled[name]["test"].texts[number] == one[name]["test"].texts[number]


def test_the_length_limit_cuts_a_drawn_text(tmp_path: Path) -> None:
    learner = tiny_learner(tmp_path, PAIRS, generation={"max_new_tokens": 1})
    predicted = fitted(learner, tmp_path, "ngram").predicted["ngram"]["test"]
    assert predicted.cut.all()
    assert all(text is not None and len(text) <= 6 for text in predicted.texts)


def test_zero_shot_is_the_model_before_it_was_trained(tmp_path: Path) -> None:
    learner = tiny_learner(tmp_path, PAIRS, model_folder=tiny_writer_folder(tmp_path / "gpt2"))
    before = predict_texts(learner.text_model, learner.rows["test"], settings=learner.generation)
    with torch.no_grad():
        for weight in learner.model.parameters():
            weight.add_(1.0)
    after = fitted(learner, tmp_path, "zero_shot").predicted["zero_shot"]["test"]
    assert after.texts == before.texts
    assert after.nats is not None and after.nats == pytest.approx(before.nats, rel=1e-6)


# ---- few shots


def few_shots(tmp_path: Path, *, positions: int, **sections: Any) -> tuple[WriterLearner, TextPredictions]:
    model = tiny_writer_folder(tmp_path / f"gpt2-{positions}", n_positions=positions)
    tokenizer_config = model / "tokenizer_config.json"
    tokenizer_config.write_text(tokenizer_config.read_text().replace(": 64", f": {positions}"))
    learner = tiny_learner(tmp_path, PAIRS, model_folder=model, **sections)
    return learner, fitted(learner, tmp_path, "few_shot").predicted["few_shot"]["test"]


def nats_after(learner: WriterLearner, before: str, completion: str) -> float:
    """By transformers' own logits: the nats of a completion and the token that ends it."""
    tokenizer, network = learner.tokenizer, learner.fresh_model().train(False)
    prompt = tokenizer(before, add_special_tokens=False)["input_ids"]
    answer = [*tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = network(torch.tensor([[*prompt, *answer]])).logits[0].double().log_softmax(dim=-1)
    return -sum(float(logits[len(prompt) - 1 + place, token]) for place, token in enumerate(answer))


def test_few_shot_scores_the_completion_after_the_examples(tmp_path: Path) -> None:
    learner, predicted = few_shots(tmp_path, positions=256)
    examples, documents = drawn_examples(learner), learner.scorer.prepared.splits["test"]
    train = learner.scorer.prepared.splits["train"]
    assert len(set(examples)) == 3
    assert set(examples) <= set(zip(train["text"], train["target"], strict=True))
    assert predicted.nats is not None and predicted.tokens is not None
    for number, nats in enumerate(predicted.nats[:3]):
        row = documents[number]
        # Bytes are tokens: all three examples have room, within as many tokens as four sequences of max_tokens.
        before = few_shot_prompt(examples, row["text"])
        assert len(before) + len(row["target"]) < 4 * 64
        assert nats == pytest.approx(nats_after(learner, before, row["target"]), rel=1e-4)


def test_examples_without_room_are_left_out_whole(tmp_path: Path) -> None:
    learner, predicted = few_shots(tmp_path, positions=110)
    examples, row = drawn_examples(learner), learner.scorer.prepared.splits["test"][0]
    sizes = [len(few_shot_prompt(examples[:count], row["text"]) + row["target"]) + 1 for count in range(4)]
    held = max(count for count, size in enumerate(sizes) if size <= 110)
    assert held == 1 and predicted.nats is not None
    before = few_shot_prompt(examples[:held], row["text"])
    assert predicted.nats[0] == pytest.approx(nats_after(learner, before, row["target"]), rel=1e-4)


def test_without_room_for_one_example_few_shots_are_zero_shots(tmp_path: Path) -> None:
    learner, predicted = few_shots(tmp_path, positions=64)
    zero = fitted(learner, tmp_path, "zero_shot").predicted["zero_shot"]["test"]
    assert predicted.nats is not None and predicted.nats == pytest.approx(zero.nats, rel=1e-6)


def test_few_shots_have_no_nats_where_prompts_are_learnt_too(tmp_path: Path) -> None:
    learner, predicted = few_shots(tmp_path, positions=256, windows={"completions_only": False})
    assert predicted.nats is None and predicted.tokens is None
    assert len(predicted.written) == len(learner.rows["test"])


def test_a_prompt_of_examples_reads_like_a_page() -> None:
    pairs = [("2 + 2", "4"), ("3 + 3", "6")]
    assert few_shot_prompt(pairs, "5 + 5") == "2 + 2\n4\n\n3 + 3\n6\n\n5 + 5\n"
    assert few_shot_prompt([Shot(prompt="Q: 1?\nA:", completion=" one")], "Q: 2?\nA:") == "Q: 1?\nA: one\n\nQ: 2?\nA:"
    assert few_shot_prompt([("a ", "b"), ("c", " d")], "e ") == "a b\n\nc d\n\ne "
    assert few_shot_prompt([], "alone") == "alone"


def test_an_answer_ends_at_a_blank_line_unless_the_examples_have_one() -> None:
    assert few_shot_answer("6\n\n7 + 7\n14", [("2 + 2", "4")]) == ("6", True)
    assert few_shot_answer("\n6 or\nso", [("2 + 2", "4")]) == ("6 or\nso", False)
    assert few_shot_answer("a\n\nb", [("verse", "one\n\ntwo")]) == ("a\n\nb", False)
    assert few_shot_answer("a\n\nb", []) == ("a\n\nb", False)


lines = st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=8)


@given(examples=st.lists(st.tuples(lines, lines), min_size=1, max_size=4), asked=lines, answer=lines)
def test_who_goes_on_with_the_pattern_has_answered(examples: list[tuple[str, str]], asked: str, answer: str) -> None:
    whole = few_shot_prompt([*examples, (asked, answer)], "next")
    begun = few_shot_prompt(examples, asked)
    assert whole.startswith(begun)
    assert few_shot_answer(whole.removeprefix(begun), examples) == (answer, True)


# ---- which is strongest


def scores(**values: float | None) -> dict[str, SplitScores]:
    told = SplitScores(scores={name: Score(value=value, n=9) for name, value in values.items()})
    other = SplitScores(scores={name: Score(value=-(value or 0), n=9) for name, value in values.items()})
    return {"validation": told, "test": other}


def test_the_strongest_is_chosen_on_validation_among_those_that_have_the_score() -> None:
    made = TextOpponents(
        {}, {"copy_source": scores(bleu=12.0), "ngram": scores(bleu=3.0, loss=2.0), "zero_shot": scores(bleu=9, loss=3)}
    )
    assert made.strongest("bleu") == "copy_source"
    assert made.strongest("loss") == "ngram"
    assert made.strongest("perplexity") is None
    assert TextOpponents({}, {"ngram": scores(loss=None)}).strongest("loss") is None
    assert TextOpponents({}, {}).strongest("bleu") is None


def test_a_model_with_more_outputs_than_tokens_spreads_over_all_of_them(tmp_path: Path) -> None:
    learner = tiny_learner(tmp_path, SEQ2SEQ, model_folder=tiny_writer_folder(tmp_path / "t5", "t5", vocab_size=400))
    assert vocabulary(learner) == 400 > len(learner.tokenizer)
    assert start_id(learner) == 0
    predicted = fitted(learner, tmp_path, "ngram", "hidden_markov").predicted
    assert all(text is not None for by_split in predicted.values() for text in by_split["test"].texts)
