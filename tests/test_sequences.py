"""Examples become sequences: what is learnt, what is cut and what generation starts from, counted to the token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_chats import BYTES, CHAT, CHATML, MARKED, MARKS, MISTRAL, UNCLOSED, tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from finetune.data import sequences as module
from finetune.data.chats import chat_prompt, chat_sequence
from finetune.data.forms import Encoder, SequenceSettings
from finetune.data.sequences import SequenceCounts, encode_examples
from finetune.errors import DataError, ModelError, RecipeError

QUICK = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=25)
BEGINS = tokenizer(begins=True)
EOS, BOS = BYTES.eos_token_id, BYTES.bos_token_id


def seq2seq_tokenizer() -> PreTrainedTokenizerFast:
    """Characters as tokens, closed by </s> as T5's."""
    vocab = {token: id for id, token in enumerate(["<pad>", "</s>", "<unk>", *"abcdefghij "])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


T5 = seq2seq_tokenizer()


def table_of(texts: list[str], targets: list[str | None] | None = None) -> datasets.Dataset:
    origins = [f"x.jsonl:{number}" for number in range(1, len(texts) + 1)]
    return datasets.Dataset.from_dict({"text": texts, "target": targets or [None] * len(texts), "origin": origins})


def encode(
    texts: list[str],
    targets: list[str | None] | None = None,
    *,
    form: str,
    tokens: Any = BYTES,
    purpose: str = "train",
    **chosen: Any,
) -> tuple[list[dict[str, Any]], SequenceCounts]:  # fmt: skip
    asked = SequenceSettings(**{"max_tokens": 32, "too_long": "cut", "max_new_tokens": 8, **chosen})
    rows, counts = encode_examples(
        table_of(texts, targets), tokens, form=form, settings=asked, purpose=purpose  # type: ignore[arg-type]
    )  # fmt: skip
    check(rows, counts, causal=form != "seq2seq", most=asked.max_tokens)
    return list(rows), counts


def check(rows: datasets.Dataset, counts: SequenceCounts, *, causal: bool, most: int) -> None:
    """What holds of every result."""
    sequences = [pair for row in rows for pair in zip(row["ids"], row["learn"], strict=True)]
    for ids, learn in sequences:
        assert len(ids) == len(learn) <= most
        assert any(learn[1:]) or not causal
        assert not (causal and learn[0])
    assert counts.documents == len(rows)
    assert counts.sequences == len(sequences)
    source = 0 if causal else sum(len(row["source"]) for row in rows)
    assert counts.tokens == sum(len(ids) for ids, _ in sequences) + source
    assert counts.learnt_tokens == sum(sum(learn) for _, learn in sequences)
    assert counts.lengths.documents == counts.documents + counts.documents_dropped
    json.dumps(counts.to_json())


def learnt(row: dict[str, Any]) -> list[int]:
    pairs = zip(row["ids"], row["learn"], strict=True)
    return [id for ids, learn in pairs for id, is_learnt in zip(ids, learn, strict=True) if is_learnt]


WORDS = st.text(st.sampled_from("hello wor天气.\n"), min_size=2, max_size=80).filter(lambda text: text.strip())
TOKENIZERS = st.sampled_from([BYTES, BEGINS, MARKS])


# ---- plain text


@QUICK
@given(
    texts=st.lists(WORDS, min_size=1, max_size=4), tokens=TOKENIZERS, most=st.integers(8, 40),
    stride=st.integers(0, 6), purpose=st.sampled_from(["train", "evaluate"]),
)  # fmt: skip
def test_every_token_of_a_text_is_learnt_once(
    texts: list[str], tokens: Any, most: int, stride: int, purpose: str
) -> None:
    chosen = {"max_tokens": most, "stride": stride, "prompt_tokens": 5, "max_new_tokens": 4}
    rows, counts = encode(texts, form="text", tokens=tokens, purpose=purpose, **chosen)
    for number, (text, row) in enumerate(zip(texts, rows, strict=True)):
        whole = [*tokens(text)["input_ids"], tokens.eos_token_id]
        assert learnt(row) == whole[1:]
        assert row["row"] == number
        first = 0 if tokens is BEGINS else tokens(text, return_offsets_mapping=True)["offset_mapping"][0][1]
        if tokens is not MARKS:
            # Every character is of some token, but those that begin before the first learnt one.
            assert row["characters"] == len(text.rstrip()) - first or text != text.rstrip()
            assert row["characters"] <= len(text) - first
        if purpose == "train":
            assert (row["prompt"], row["reference"]) == ([], "")
            assert all(len(ids) == most for ids in row["ids"][:-1])
    assert counts.lengths.tokens == sum(len(tokens(text)["input_ids"]) + 1 for text in texts)
    assert (counts.tokens_cut, counts.documents_dropped) == (0, 0)


@QUICK
@given(text=WORDS, tokens=st.sampled_from([BYTES, BEGINS]), prompt=st.integers(1, 12), new=st.integers(1, 9))
def test_a_text_is_continued_where_its_prompt_ends(text: str, tokens: Any, prompt: int, new: int) -> None:
    [row], _ = encode([text], form="text", tokens=tokens, purpose="evaluate", prompt_tokens=prompt, max_new_tokens=new)
    whole = tokens(text)["input_ids"]
    lead = len(tokens("")["input_ids"])
    assert whole[: len(row["prompt"])] == row["prompt"]
    assert lead <= len(row["prompt"]) <= lead + min(prompt, max(1, len(whole) // 2))
    beginning = tokens.decode(row["prompt"], skip_special_tokens=True)
    if "\ufffd" not in beginning:  # but for a text that begins with a character of more tokens than the prompt may have
        assert text.startswith(beginning + row["reference"])
    written = tokens.decode(whole[len(row["prompt"]) : len(row["prompt"]) + new]).rstrip("\ufffd")
    assert row["reference"].startswith(written.rstrip())
    assert len(row["reference"]) <= len(written) + 1


def test_text_is_closed_once_and_windows_have_context() -> None:
    text = "hello world, how are you today? " * 6
    ids = BYTES(text)["input_ids"]
    [row], _ = encode([text], form="text", max_tokens=16)
    assert row["ids"][0] == ids[:16]
    assert row["ids"][1] == [*ids, EOS][15:31]
    assert [sum(learn) for learn in row["learn"][:-1]] == [15] * (len(row["learn"]) - 1)
    assert row["ids"][-1][-1] == EOS
    [row], counts = encode([text], form="text", purpose="evaluate", max_tokens=16, stride=5)
    assert row["ids"][1] == [*ids, EOS][11:27]
    assert row["learn"][1] == [False] * 5 + [True] * 11
    assert counts.lengths.window_tokens == 16
    assert counts.learnt_tokens == len(ids)


def test_a_text_of_one_token_is_left_out_of_training_and_refused_in_an_evaluation() -> None:
    endless = tokenizer()
    endless.eos_token = None
    rows, counts = encode(["hello", "hello world", " "], form="text", tokens=endless)
    assert [row["row"] for row in rows] == [1]
    assert counts.documents_dropped == 2
    assert counts.notes[1:] == [
        "warning: 2 of 3 examples dropped: nothing to learn: the tokenizer leaves too little of the text",
        "dropped were x.jsonl:1, x.jsonl:3",
    ]
    assert "cannot learn where to stop" in counts.notes[0]
    with pytest.raises(DataError) as raised:
        encode(["hello", "hello world", " "], form="text", tokens=endless, purpose="evaluate")
    assert [problem.where for problem in raised.value.problems] == ["x.jsonl:1", "x.jsonl:3"]
    with pytest.raises(DataError, match=r"x.jsonl:1: none of the 1 examples of train can be learnt \(nothing to learn"):
        encode(["hello"], form="text", tokens=endless)


# ---- pairs


def test_completions_are_learnt_with_their_end() -> None:
    prompt, completion = BYTES("hello")["input_ids"], BYTES(" world")["input_ids"]
    [row], counts = encode(["hello"], [" world"], form="pairs")
    assert row["ids"] == [[*prompt, *completion, EOS]]
    assert learnt(row) == [*completion, EOS]
    assert (row["characters"], row["prompt"], row["reference"]) == (6, [], "")
    assert (counts.tokens, counts.learnt_tokens) == (len(prompt) + len(completion) + 1, len(completion) + 1)
    [row], _ = encode(["hello"], [" world"], form="pairs", tokens=BEGINS, completions_only=False, purpose="evaluate")
    assert row["ids"] == [[BOS, *prompt, *completion, EOS]]
    assert learnt(row) == [*prompt, *completion, EOS]
    assert (row["characters"], row["prompt"], row["reference"]) == (11, [BOS, *prompt], " world")


@QUICK
@given(
    prompt=st.text("hello w天", max_size=60), completion=WORDS, most=st.integers(8, 40), tokens=TOKENIZERS,
    only=st.booleans(), purpose=st.sampled_from(["train", "evaluate"]), drop=st.booleans(),
)  # fmt: skip
def test_a_long_pair_loses_the_left_of_its_prompt_first(
    prompt: str, completion: str, most: int, tokens: Any, only: bool, purpose: str, drop: bool
) -> None:
    before, after = (tokens(text, add_special_tokens=False)["input_ids"] for text in (prompt, completion))
    lead = [BOS] if tokens is BEGINS or not before else []
    whole = [*lead, *before, *after, EOS]
    chosen = {"max_tokens": most, "completions_only": only, "max_new_tokens": 4}
    if drop and purpose == "train" and len(whole) > most:
        with pytest.raises(DataError, match=rf"none of the 1 examples.*longer than windows.max_tokens {most}"):
            encode([prompt], [completion], form="pairs", tokens=tokens, too_long="drop", **chosen)
        return
    asked = {"form": "pairs", "tokens": tokens, "purpose": purpose, "too_long": "drop" if drop else "cut"}
    [row], counts = encode([prompt], [completion], **asked, **chosen)
    [ids], [learn] = row["ids"], row["learn"]
    room = most - max(len(lead), 1)
    kept = [*after, EOS][:room]
    assert ids[len(ids) - len(kept) :] == kept
    assert ids[: len(ids) - len(kept)] == [*lead, *before[max(0, len(whole) - most) :]] or len(after) + 1 >= room
    assert len(ids) == min(most, len(whole))
    assert counts.tokens_cut == len(whole) - len(ids)
    assert counts.documents_cut == (len(whole) > most)
    assert sum(learn) == (len(kept) if only else len(ids) - max(1, len(lead)))
    assert (ids[-1] == EOS) == (len(after) + 1 <= room)
    if only and len(kept) > len(after) and tokens is not MARKS:
        assert row["characters"] == len(completion.rstrip()) or completion[-1].isspace()
    if purpose == "evaluate":
        asked_of = [*lead, *before]
        assert row["prompt_cut"] == max(0, len(asked_of) - (most - 4))
        assert row["prompt"] == [*lead, *asked_of[len(lead) + row["prompt_cut"] :]]


def test_a_prompt_may_use_what_positions_the_model_has() -> None:
    [row], counts = encode(["a" * 50], ["b"], form="pairs", purpose="evaluate", max_tokens=32, context_tokens=64)
    assert (len(row["prompt"]), row["prompt_cut"]) == (50, 0)
    assert len(row["ids"][0]) == 32
    assert counts.tokens_cut == 50 + 2 - 32
    with pytest.raises(
        RecipeError, match=r"generation.max_new_tokens: 64 leave no room for a prompt in 64. Write at m"
    ):
        encode(["a"], ["b"], form="pairs", purpose="evaluate", context_tokens=64, max_new_tokens=64)
    with pytest.raises(RecipeError, match=r"windows.max_tokens: 1 leave no room"):
        encode(["a"], ["b"], form="pairs", max_tokens=1)


def test_an_empty_prompt_begins_with_a_token_that_the_tokenizer_has() -> None:
    after = BYTES("world")["input_ids"]
    [row], _ = encode([""], ["world"], form="pairs", purpose="evaluate")
    assert (row["ids"], row["prompt"], learnt(row)) == ([[BOS, *after, EOS]], [BOS], [*after, EOS])
    without = tokenizer()
    without.bos_token = None
    [row], _ = encode([""], ["world"], form="pairs", purpose="evaluate", tokens=without)
    assert (row["ids"], row["prompt"]) == ([[EOS, *after, EOS]], [EOS])
    without.eos_token = None
    with pytest.raises(
        DataError, match=r"x.jsonl:2: the prompt is empty, and the tokenizer has no token to begin with"
    ):
        encode(["hello", ""], ["world", "world"], form="pairs", tokens=without)


def test_empty_completions_are_counted_or_refused() -> None:
    rows, counts = encode(["a"] * 5, ["b", "", " \n", None, ""], form="pairs")
    assert [row["row"] for row in rows] == [0]
    assert counts.documents_dropped == 4
    assert counts.notes == [
        "warning: 4 of 5 examples dropped: nothing to learn: the completion is empty",
        "dropped were x.jsonl:2, x.jsonl:3, x.jsonl:4 and 1 more",
    ]
    with pytest.raises(DataError, match=r"x.jsonl:2: nothing to learn: the completion is empty"):
        encode(["a", "a"], ["b", ""], form="pairs", purpose="evaluate")
    with pytest.raises(DataError, match="none of the 2 examples of train can be learnt"):
        encode(["a", "a"], ["", ""], form="pairs")


@pytest.mark.parametrize("purpose", ["train", "evaluate"])
def test_what_is_too_long_can_be_refused(purpose: str) -> None:
    with pytest.raises(DataError) as raised:
        encode(["a" * 40, "a", "a" * 50], ["b"] * 3, form="pairs", too_long="refuse", purpose=purpose)
    assert [str(problem) for problem in raised.value.problems] == [
        f"x.jsonl:{row}: longer than windows.max_tokens 32. Found: {count} tokens. "
        "Raise it, or write windows.too_long: cut."
        for row, count in ((1, 42), (3, 52))
    ]


def test_special_tokens_written_out_are_told() -> None:
    _, counts = encode(["a", "say </s> now", "b"], ["</s>", "b", "b"], form="pairs")
    assert counts.notes == [
        "2 of 3 examples write special tokens out, which the tokenizer takes for its own: x.jsonl:1, x.jsonl:2"
    ]


# ---- chats


def chat_table(chats: list[list[Any]]) -> tuple[list[str], list[str | None]]:
    return [json.dumps(chat[:-1], ensure_ascii=False) for chat in chats], [chat[-1]["content"] for chat in chats]


@pytest.mark.parametrize("template", [None, CHATML, MARKED, MISTRAL])
def test_a_chat_that_fits_is_what_its_template_makes_of_it(template: str | None) -> None:
    chats: list[list[Any]] = [CHAT, CHAT[1:3]]
    chosen: dict[str, Any] = {"form": "chat", "template": template, "max_tokens": 200}
    rows, counts = encode(*chat_table(chats), purpose="evaluate", **chosen)
    for row, chat in zip(rows, chats, strict=True):
        whole = chat_sequence(chat, BYTES, template=template)
        assert (row["ids"], row["learn"]) == ([whole.ids], [whole.learn])
        assert row["prompt"] == chat_prompt(chat[:-1], BYTES, template=template)
        assert row["reference"] == chat[-1]["content"]
    assert counts.notes == []
    everything, _ = encode(*chat_table(chats), completions_only=False, **chosen)
    assert [row["learn"] for row in everything] == [[[False] + [True] * (len(row["ids"][0]) - 1)] for row in rows]


def test_a_long_chat_keeps_its_last_answer() -> None:
    chat: list[Any] = [{"role": "user", "content": "hello " * 30}, {"role": "assistant", "content": "fine thanks"}]
    whole = chat_sequence(chat, BYTES, template=MISTRAL)
    [row], counts = encode(*chat_table([chat]), form="chat", template=MISTRAL)
    assert row["ids"] == [[BOS, *whole.ids[-31:]]]
    assert learnt(row) == [id for id, is_learnt in zip(whole.ids, whole.learn, strict=True) if is_learnt]
    assert counts.tokens_cut == len(whole.ids) - 32
    chat = [chat[0], {"role": "assistant", "content": "fine " * 40}]
    [row], _ = encode(*chat_table([chat]), form="chat", template=MISTRAL, purpose="evaluate")
    assert row["ids"][0][0] == BOS
    assert row["learn"] == [[False] + [True] * 31]
    assert row["ids"][0][-1] != EOS
    assert len(row["prompt"]) == 24
    assert row["prompt"][0] == BOS


def test_a_chat_that_its_template_refuses_is_named() -> None:
    chats: list[list[Any]] = [CHAT, [CHAT[1], CHAT[1], CHAT[2]]]
    for template in (
        MISTRAL,
        MARKED.replace("{%- for", "{{ raise_exception('no') if messages|length == 3 }}{%- for", 1),
    ):
        with pytest.raises(DataError, match=r"x.jsonl:2: the chat template refuses this chat"):
            encode(*chat_table(chats), form="chat", template=template, max_tokens=200)


def test_a_chat_whose_template_shows_no_answer_is_dropped() -> None:
    hides = MARKED.replace("message['role'] == 'assistant'", "message['role'] == 'assistant' and messages|length > 2")
    chats: list[list[Any]] = [CHAT, CHAT[1:3]]
    rows, counts = encode(*chat_table(chats), form="chat", template=hides, max_tokens=200)
    assert [row["row"] for row in rows] == [0]
    assert "1 of 2 examples dropped: nothing to learn: the chat template shows no token of an answer" in counts.notes[0]


def test_what_a_template_does_to_generation_is_told() -> None:
    chats: list[list[Any]] = [CHAT[1:3], [CHAT[1], {"role": "assistant", "content": "\nfine"}]]
    _, counts = encode(*chat_table(chats), form="chat", template=UNCLOSED, max_tokens=200)
    assert "cannot learn where to stop" in counts.notes[0]
    merging = tokenizer()  # in which a line end and a blank line are tokens of their own
    merging.add_tokens(["\n\n"])
    _, counts = encode(*chat_table(chats), form="chat", tokens=merging, max_tokens=200, purpose="evaluate")
    assert counts.notes == [
        "1 of 2 examples have other tokens at the end of the prompt when it stands alone: x.jsonl:2"
    ]


# ---- source and target


def test_source_and_target_are_closed_and_cut_at_the_right() -> None:
    chosen: dict[str, Any] = {"form": "seq2seq", "tokens": T5, "max_tokens": 6, "max_target_tokens": 4}
    rows, counts = encode(["abc", "abcdefgh"], ["ab", "abcd"], purpose="evaluate", **chosen)
    assert [T5.convert_ids_to_tokens(row["source"]) for row in rows] == [[*"abc", "</s>"], [*"abcde", "</s>"]]
    assert [T5.convert_ids_to_tokens(row["ids"][0]) for row in rows] == [[*"ab", "</s>"], [*"abcd"]]
    assert [row["learn"] for row in rows] == [[[True] * 3], [[True] * 4]]
    assert [(row["characters"], row["reference"]) for row in rows] == [(2, "ab"), (4, "abcd")]
    assert (counts.tokens_cut, counts.documents_cut) == (3 + 1, 1)
    assert counts.lengths.tokens == 4 + 9
    assert counts.target_lengths is not None
    assert counts.target_lengths.tokens == 3 + 5
    dropping, counts = encode(["abc", "abcdefgh", "a"], ["ab", "abcd", "a"], **chosen, too_long="drop")
    assert [row["row"] for row in dropping] == [0, 2]
    assert "longer than windows.max_tokens 6 or windows.max_target_tokens 4" in counts.notes[0]
    with pytest.raises(DataError, match=r"x.jsonl:2: longer than .*Found: 9 and 5 tokens"):
        encode(["abc", "abcdefgh"], ["ab", "abcd"], **chosen, too_long="refuse")
    with pytest.raises(DataError, match=r"x.jsonl:2: nothing to learn: the target is empty"):
        encode(["abc", "abc"], ["ab", " "], purpose="evaluate", **chosen)


def test_a_target_is_closed_where_the_tokenizer_does_not() -> None:
    [row], _ = encode(["hello"], ["hello"], form="seq2seq", max_target_tokens=9)
    assert row["ids"] == [[*BYTES("hello")["input_ids"], EOS]]
    assert row["source"] == BYTES("hello")["input_ids"]


# ---- the table


def test_no_documents_are_no_rows() -> None:
    for form in ("text", "pairs", "chat", "seq2seq"):
        rows, counts = encode([], [], form=form)
        assert rows == []
        assert (counts.documents, counts.tokens, counts.notes) == (0, 0, [])


def test_a_result_is_kept_for_the_same_documents_tokenizer_and_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table_of(["hello world", "a"] * 300, ["fine", ""] * 300).to_parquet(str(tmp_path / "x.parquet"))
    rows = datasets.Dataset.from_parquet(str(tmp_path / "x.parquet"), cache_dir=str(tmp_path / "cache"))
    asked: dict[str, Any] = {"max_tokens": 32, "too_long": "cut", "max_new_tokens": 8}
    heard: list[int] = []

    def encoded(tokens: Any = BYTES, form: Any = "pairs", purpose: Any = "train", **chosen: Any) -> Any:
        settings_ = SequenceSettings(**{**asked, **chosen})
        heard.clear()
        return encode_examples(
            rows, tokens, form=form, settings=settings_, purpose=purpose, on_documents=heard.append
        )  # fmt: skip

    first, counts = encoded()
    assert sum(heard) == 600
    assert first.cache_files
    assert first["row"][:3] == [0, 2, 4]
    monkeypatch.setattr(module, "_table", None)
    again, same = encoded()
    assert (again.cache_files, same, sum(heard)) == (first.cache_files, counts, 600)
    assert again[:] == first[:]
    others: list[dict[str, Any]] = [
        {"tokens": BEGINS}, {"form": "text"}, {"purpose": "evaluate"}, {"completions_only": False}, {"max_tokens": 33}
    ]  # fmt: skip
    for other in others:
        with pytest.raises(TypeError, match="not callable"):
            encoded(**other)


def test_what_decides_a_result_is_in_its_name() -> None:
    def name(tokens: Any = BYTES, **chosen: Any) -> str:
        settings_ = SequenceSettings(max_tokens=32, too_long="cut", max_new_tokens=8, **chosen)
        return Encoder(tokens, form="chat", settings=settings_, purpose="train").fingerprint

    truncated = tokenizer()
    truncated("hello", truncation=True, max_length=2)  # leaves its mark in the tokenizer, and decides nothing
    assert name() == name(truncated) != name(template=CHATML)
    templated = tokenizer(template=CHATML)
    assert name(templated) == name(template=CHATML)
    lower = tokenizer()
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert name(lower) != name()


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="its tokenizer gives no character offsets"):
        encode(["a"], ["b"], form="pairs", tokens=Slow())


def test_many_and_long_documents_come_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHARACTERS_AT_A_TIME", 40)
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 3)
    texts = [f"hello {'world ' * (number % 9)}{number}" for number in range(20)]
    rows, _ = encode(texts, form="text", max_tokens=200)
    assert [BYTES.decode(row["ids"][0], skip_special_tokens=True) for row in rows] == texts
    assert [row["row"] for row in rows] == list(range(20))
