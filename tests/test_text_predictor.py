"""A finished writer asked for texts: as in its evaluation, with other settings, piece by piece, untrained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
from finished_writers import NEW_TOKENS, finished_writer, recipe_of
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_byte_tokenizer, tiny_writer_folder
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from finetune.data.forms import Encoder
from finetune.errors import DataError, ModelError, RecipeError
from finetune.few_shot import few_shot_prompt
from finetune.generation_options import as_options, changed_generation, check_changes
from finetune.recipe import Shot, TextGeneration
from finetune.text_predictor import TextPredictor, _Stream
from finetune.training.text_inference import decoded

FORMS = ("text", "pairs", "chat", "seq2seq")
WORDS = ["the lion eats the bear", "a fish", "under the old roof sits a small wolf", "no", "the bear finds the fish"]


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextPredictor]:
    """One of each form, which draws what it writes."""
    folder = tmp_path_factory.mktemp("writers")
    return {
        form: TextPredictor.load(finished_writer(folder / form, form, do_sample=True, top_k=40, prompt_tokens=6)
        if form == "text" else finished_writer(folder / form, form, do_sample=True, top_k=40)) for form in FORMS
    }  # fmt: skip


def test_rows(form: str) -> datasets.Dataset:
    """Prepared rows, as a split of a run has them."""
    texts = {
        "text": [f"{words}, and so on for a while" for words in WORDS],
        "chat": [json.dumps([{"role": "user", "content": words}]) for words in WORDS],
    }.get(form, WORDS)
    targets = [None if form == "text" else "yes"] * len(WORDS)
    return datasets.Dataset.from_dict({"text": texts, "target": targets, "origin": [f"row {n}" for n in range(5)]})


test_rows.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", FORMS)
def test_prompts_of_a_split_get_the_texts_of_its_evaluation(form: str, writers: dict[str, TextPredictor]) -> None:
    rows = test_rows(form)
    judged = writers[form].predict_rows(rows)
    prompts = [text[:6] for text in rows["text"]] if form == "text" else WORDS
    written = writers[form].write(prompts)
    assert [one.text for one in written] == judged.texts
    assert [one.cut for one in written] == judged.cut.tolist()
    assert len({one.text for one in written}) == len(WORDS)


@pytest.mark.parametrize("form", FORMS)
def test_pieces_make_the_texts_in_order(form: str, writers: dict[str, TextPredictor]) -> None:
    heard: list[tuple[int, str]] = []
    written = writers[form].write(WORDS, on_text=lambda number, text: heard.append((number, text)))
    assert written == writers[form].write(WORDS)
    assert ["".join(text for n, text in heard if n == number) for number in range(5)] == [one.text for one in written]
    assert [number for number, text in heard if not text] == list(range(5))
    assert [number for number, _ in heard] == sorted(number for number, _ in heard)
    assert len(heard) > 3 * len(WORDS)


def test_the_order_of_prompts_changes_no_greedy_text(writers: dict[str, TextPredictor]) -> None:
    greedy = {"num_beams": 1}
    there = writers["pairs"].write(WORDS, changes=greedy)
    back = writers["pairs"].write(WORDS[::-1], changes=greedy)
    assert there == back[::-1] and len({one.text for one in there}) > 1


def test_a_chat_is_its_messages_their_json_or_words_of_the_user(writers: dict[str, TextPredictor]) -> None:
    messages: Any = [{"role": "user", "content": "a fish"}]
    prompts = [messages, json.dumps(messages), "a fish"]
    texts = [writers["chat"].write([prompt])[0].text for prompt in prompts]
    assert len(set(texts)) == 1
    with pytest.raises(DataError, match=r"prompt 1: messages\[1\]\.role: the last message must be the user's"):
        writers["chat"].write([[*messages, {"role": "assistant", "content": "b"}]])
    with pytest.raises(DataError, match="prompt 1: not a chat"):
        writers["chat"].write(['[{"role": "user", "content": '])


def test_a_long_prompt_loses_its_beginning_and_a_long_source_its_end(writers: dict[str, TextPredictor]) -> None:
    long = "x" * 30 + "y" * 40
    room = 64 - NEW_TOKENS
    [one] = writers["text"].write([long])
    assert one.prompt_tokens_cut == len(long) - room
    assert one.text == writers["text"].write([long[-room:]])[0].text
    [read] = writers["seq2seq"].write([long])
    assert read.prompt_tokens_cut == len(long) + 1 - 48
    assert read.text == writers["seq2seq"].write([long[:47]])[0].text


def test_cleaning_and_examples_come_before_the_prompt(tmp_path: Path, writers: dict[str, TextPredictor]) -> None:
    shots = [{"prompt": "a?", "completion": "b"}, {"prompt": "c?", "completion": "d"}]
    finished_writer(tmp_path / "m", "pairs", cleaning=["lowercase"], do_sample=True, top_k=40, examples=shots)
    asked = TextPredictor.load(tmp_path / "m").write(["THE FISH"])[0].text
    prompt = few_shot_prompt([Shot(**shot) for shot in shots], "the fish")
    assert prompt.endswith("the fish\n") and "a?" in prompt
    assert asked == writers["pairs"].write([prompt])[0].text.lstrip("\n").partition("\n\n")[0]


def test_examples_end_at_the_blank_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shots = [{"prompt": "a?", "completion": "b"}]
    predictor = TextPredictor.load(finished_writer(tmp_path / "m", "pairs", examples=shots))
    ids = predictor.model.tokenizer("Paris\n\nc?\nd")["input_ids"]

    def spoken(model: Any, prompts: Sequence[Any], *, on_token: Any, **named: Any) -> list[Any]:
        for token in ids if on_token else ():
            on_token(0, token)
        return [SimpleNamespace(ids=ids, cut=True)]

    monkeypatch.setattr("finetune.text_predictor.generate", spoken)
    pieces: list[str] = []
    [one] = predictor.write(["e?"], on_text=lambda number, text: pieces.append(text))
    assert (one.text, one.cut) == ("Paris", False)
    assert pieces == [*"Paris", ""]


def test_the_untrained_model_of_a_recipe_writes(tmp_path: Path) -> None:
    tiny_writer_folder(tmp_path / "model", "gpt2")
    predictor = TextPredictor.untrained(recipe_of("pairs", base=tmp_path, examples=[]))
    assert predictor.write(["a"])[0].tokens > 0
    assert predictor.model.end_ids == {1}
    with pytest.raises(ModelError, match="model_type 'gpt2' has no head for task seq2seq"):
        TextPredictor.untrained(recipe_of("seq2seq", base=tmp_path))


def test_no_prompts_are_no_texts(writers: dict[str, TextPredictor]) -> None:
    assert writers["pairs"].write([]) == writers["pairs"].write([], on_text=lambda number, text: None) == []


def test_prompts_are_made_by_the_encoder_of_the_evaluation(writers: dict[str, TextPredictor]) -> None:
    for form in ("pairs", "chat", "seq2seq"):
        settings, tokenizer = writers[form].sequence_settings, writers[form].model.tokenizer
        encoder = Encoder(tokenizer, form=form, settings=settings, purpose="evaluate")  # type: ignore[arg-type]
        rows = test_rows(form)
        judged = list(encoder.rows(list(zip(rows["text"], rows["target"], strict=True))))
        asked = list(encoder.prompts(rows["text"][:]))
        assert [(row.prompt, row.source) for row in asked] == [(row.prompt, row.source) for row in judged]


# ---- changes of the settings

DRAWN = TextGeneration(do_sample=True, temperature=0.7, top_k=50, seed=3)
SEARCHED = TextGeneration(num_beams=4, length_penalty=0.6)


@pytest.mark.parametrize(
    ("before", "changes", "after"),
    [
        (TextGeneration(), {"temperature": 0.5}, TextGeneration(do_sample=True, temperature=0.5)),
        (TextGeneration(), {"top_p": 0.9, "seed": 4}, TextGeneration(do_sample=True, top_p=0.9, seed=4)),
        (DRAWN, {"top_p": 0.9}, TextGeneration(do_sample=True, temperature=0.7, top_k=50, top_p=0.9, seed=3)),
        (DRAWN, {"seed": 4}, DRAWN.model_copy(update={"seed": 4})),
        (DRAWN, {"num_beams": 2}, TextGeneration(num_beams=2, seed=3)),
        (DRAWN, {"num_beams": 1}, TextGeneration(seed=3)),
        (SEARCHED, {"num_beams": 2}, TextGeneration(num_beams=2, length_penalty=0.6)),
        (SEARCHED, {"num_beams": 1}, TextGeneration()),
        (SEARCHED, {"temperature": 1}, TextGeneration(do_sample=True)),
        (SEARCHED, {"max_new_tokens": 5}, SEARCHED.model_copy(update={"max_new_tokens": 5})),
        (SEARCHED, {}, SEARCHED),
    ],
)
def test_changes_imply_whether_tokens_are_drawn(
    before: TextGeneration, changes: dict[str, object], after: TextGeneration
) -> None:
    assert changed_generation(before, changes) == after


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"temperature": 0}, "--temperature: must be greater than 0, found 0. The likeliest tokens .* --beams 1"),
        ({"top_p": 2}, "--top-p: must be less than or equal to 1, found 2"),
        ({"max_new_tokens": 1.5}, "--max-new-tokens: must be a whole number, found 1.5"),
        ({"num_beams": "many"}, "--beams: must be a whole number, found 'many'"),
        ({"seed": 1, "num_beams": 2}, "--seed: has no effect: these settings draw nothing. Give a --temperature"),
        ({"top_k": 5, "num_beams": 2}, "--top-k: draws each token, and --beams searches for the likeliest text"),
    ],
)
def test_changes_that_cannot_be_are_refused_before_any_model(changes: dict[str, object], told: str) -> None:
    with pytest.raises(RecipeError) as refusal:
        check_changes(changes)
    with pytest.raises(RecipeError, match=told):
        raise as_options(refusal.value)


def test_changes_are_judged_beside_the_settings_of_the_model() -> None:
    with pytest.raises(RecipeError, match="min_new_tokens 9 is above max_new_tokens 5"):
        changed_generation(TextGeneration(min_new_tokens=9), {"max_new_tokens": 5})
    with pytest.raises(RecipeError, match="seed: has no effect"):
        changed_generation(TextGeneration(), {"seed": 5})


# ---- characters as they come


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """As of Llama and Mistral: words, and bytes for what has none; its decoder takes a run of bytes as a whole."""
    vocab = {"<unk>": 0, "</s>": 1, "▁a": 2, "b": 3, **{f"<0x{byte:02X}>": 4 + byte for byte in range(256)}}
    backend = Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>"))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


TOKENIZERS = {"byte_level": tiny_byte_tokenizer(), "byte_fallback": byte_fallback_tokenizer()}


def pieces_of(ids: Sequence[int], name: str) -> list[str]:
    model: Any = SimpleNamespace(tokenizer=TOKENIZERS[name])
    pieces: list[str] = []
    stream = _Stream(model, [], 0, lambda number, text: pieces.append(text))
    for token in ids:
        stream(0, token)
    stream.end(decoded(model, ids))
    return pieces


@given(st.lists(st.integers(0, 258), max_size=20), st.sampled_from(sorted(TOKENIZERS)))
def test_pieces_add_up_whatever_the_bytes(ids: list[int], name: str) -> None:
    model: Any = SimpleNamespace(tokenizer=TOKENIZERS[name])
    assert "".join(pieces_of(ids, name)) == decoded(model, ids)


def test_no_character_comes_in_halves() -> None:
    ids = TOKENIZERS["byte_level"]("a好é😀b")["input_ids"]
    assert len(ids) == 11
    assert pieces_of(ids, "byte_level") == ["a", "好", "é", "😀", "b", ""]
    assert pieces_of(ids[:-2], "byte_level") == ["a", "好", "é", "\N{REPLACEMENT CHARACTER}", ""]
    fallback = [2, *(4 + byte for byte in "好é".encode()), 3]
    assert pieces_of(fallback, "byte_fallback") == ["a", "好éb", ""]
