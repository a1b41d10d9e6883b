"""Scores of generated text: equal to sacrebleu's command and to rouge_score, and sums over documents."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer, _lcs_table
from sacrebleu.metrics.bleu import BLEU as SacreBLEU
from sacrebleu.metrics.chrf import CHRF as SacreCHRF

from finetune.errors import DataError, EnvironmentFault, RecipeError
from finetune.scores import bleu_tokenizers
from finetune.scores.bleu_tokenizers import bleu_tokenizer_for, check_bleu_tokenizer
from finetune.scores.generation import (
    distinct_share,
    longest_common_subsequence,
    one_line,
    repeated_share,
    rouge_words,
    score_losses,
    score_texts,
    signatures,
    text_statistics,
)
from finetune.scores.paired import TESTED_INSTEAD, compared_metric, greater_is_better
from finetune.scores.text_metrics import (
    BLEU_COLUMNS,
    CHRF_COLUMNS,
    LOSS_METRICS,
    MEANS,
    TEXT_METRICS,
    LossStatistics,
    TextStatistics,
    bleu_of_sums,
    chrf_of_sums,
    sentence_bleu,
)

few = settings(max_examples=30, deadline=None)
ENGLISH = [
    "the",
    "cat's",
    "3.5",
    "ran",
    "-",
    "1,000",
    "hills,",
    "&",
    "&amp;",
    '"so"',
    "on.",
    "It",
    "<skipped>",
    "naïve",
]
CHINESE = "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少，。《》A1"
LANGUAGES = {
    "13a": (" ", ENGLISH),
    "zh": ("", CHINESE),
    "ja-mecab": ("", ["今日は", "東京へ", "行きます", "。", "ラーメン", "を", "食べた"]),
    "ko-mecab": (" ", ["오늘은", "학교에", "갑니다", "책을", "읽었다", "."]),
}
few_words = st.lists(st.sampled_from(["a", "b", "c", "d.", "e,", "the", "3"]), max_size=9).map(" ".join)
pairs = st.lists(st.tuples(few_words.filter(str.strip), few_words), min_size=1, max_size=8)


def corpus(tokenizer: str, *, n: int = 40, seed: int = 1) -> tuple[list[str], list[str]]:
    """References, and predictions that are right by word with chance .7; some with line breaks, one empty."""
    space, words = LANGUAGES[tokenizer]
    generator = random.Random(seed)
    references = [generator.choices(words, k=generator.randint(2, 25)) for _ in range(n)]
    kept = [[word if generator.random() < 0.7 else generator.choice(words) for word in line] for line in references]
    predictions = [generator.choice([space, space, "\n", "\r\n"]).join(line) + "  " for line in kept]
    predictions[3] = ""
    return [space.join(line) + generator.choice(["", "\n", " "]) for line in references], predictions


def statistics(references: list[str], predictions: list[str], tokenizer: str = "13a") -> TextStatistics:
    return text_statistics(references, predictions, bleu_tokenizer=tokenizer)


@pytest.mark.parametrize("tokenizer", LANGUAGES)
def test_bleu_and_chrf_equal_the_command_to_the_last_digit(tokenizer: str, tmp_path: Path) -> None:
    references, predictions = corpus(tokenizer)
    for name, texts in (("references", references), ("predictions", predictions)):
        (tmp_path / name).write_text("".join(one_line(text) + "\n" for text in texts), encoding="utf-8", newline="")
    command = [sys.executable, "-m", "sacrebleu", "references", "-i", "predictions", "-tok", tokenizer, "-w", "15"]
    done = subprocess.run(
        [*command, "-m", "bleu", "chrf"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    theirs = json.loads(done.stdout)
    ours = score_texts(statistics(references, predictions, tokenizer))
    assert ours["bleu"] is not None and 5 < ours["bleu"] < 90
    assert [f"{ours[name]:.15f}" for name in ("bleu", "chrf")] == [f"{each['score']:.15f}" for each in theirs]
    assert list(signatures(tokenizer).values()) == [each["signature"] for each in theirs]


def test_signatures_are_those_of_the_issue_tracker_and_papers() -> None:
    version = __import__("sacrebleu").__version__
    assert signatures("13a") == {
        "bleu": f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}",
        "chrf": f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version}",
    }


@pytest.mark.parametrize("tokenizer", LANGUAGES)
def test_a_text_against_itself_is_exactly_100(tokenizer: str) -> None:
    references, _ = corpus(tokenizer)
    scores = score_texts(statistics(references, references, tokenizer))
    assert scores["bleu"] == scores["chrf"] == 100.0
    assert scores["rouge_1"] == scores["rouge_l"] == scores["exact_match"] == scores["length_ratio"] == 1.0


def test_chinese_by_the_wrong_tokeniser_is_why_there_is_a_choice() -> None:
    poem = ["床前明月光，疑是地上霜。", "举头望明月，低头思故乡。"]
    assert score_texts(statistics(poem, poem, "13a"))["bleu"] == 0.0
    assert score_texts(statistics(poem, poem, bleu_tokenizer_for(poem)))["bleu"] == 100.0


@few
@given(pairs)
def test_the_formulas_over_sums_are_sacrebleus(pairs: list[tuple[str, str]]) -> None:
    references, predictions = (list(side) for side in zip(*pairs, strict=True))
    rows = statistics(references, predictions).rows
    bleu = SacreBLEU(tokenize="13a").corpus_score(predictions, [references]).score
    assert bleu_of_sums(rows.sum(axis=0)[list(BLEU_COLUMNS)]) == pytest.approx(min(100, bleu), abs=1e-10)
    assert (
        chrf_of_sums(rows.sum(axis=0)[list(CHRF_COLUMNS)]) == SacreCHRF().corpus_score(predictions, [references]).score
    )
    each = SacreBLEU(tokenize="13a", effective_order=True)
    by_itself = [each.sentence_score(*(one, [other])).score for other, one in pairs]
    np.testing.assert_allclose(sentence_bleu(rows), np.minimum(by_itself, 100), atol=1e-10)


@few
@given(pairs, pairs)
def test_what_is_counted_adds_up(some: list[tuple[str, str]], more: list[tuple[str, str]]) -> None:
    def counted(pairs: list[tuple[str, str]]) -> TextStatistics:
        return statistics([reference for reference, _ in pairs], [prediction for _, prediction in pairs])

    together, parts = counted(some + more), [counted(some), counted(more)]
    summed = TextStatistics(np.vstack([part.rows for part in parts]), together.distinct)
    assert score_texts(summed) == score_texts(together)
    two_rows = np.vstack([part.rows.sum(axis=0) for part in parts])
    for name, value in score_texts(TextStatistics(two_rows, together.distinct)).items():
        assert value == pytest.approx(score_texts(together)[name], abs=1e-12), name


@few
@given(pairs, st.randoms(use_true_random=False))
def test_scores_know_no_order_and_keep_their_bounds(pairs: list[tuple[str, str]], generator: random.Random) -> None:
    shuffled = generator.sample(pairs, k=len(pairs))
    scores, others = (
        score_texts(statistics([reference for reference, _ in each], [prediction for _, prediction in each]))
        for each in (pairs, shuffled)
    )
    for name, metric in TEXT_METRICS.items():
        value = scores[name]
        assert others[name] == (None if value is None else pytest.approx(value, abs=1e-12)), name
        assert value is None or 0 <= value <= metric.highest
    assert scores["cut_share"] is None


def test_rouge_equals_the_package_on_plain_english() -> None:
    references, predictions = corpus("13a", n=60)
    references, predictions = ([text.replace("ï", "i") for text in side] for side in (references, predictions))
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    rows = statistics(references, predictions).rows
    for row, reference, prediction in zip(rows, references, predictions, strict=True):
        theirs = [each.fmeasure for each in scorer.score(reference, prediction).values()]
        assert row[:3] == pytest.approx(theirs, abs=1e-15)


def test_rouge_equals_the_package_with_our_words_in_any_script() -> None:
    class Ours:
        tokenize = staticmethod(rouge_words)

    references, predictions = ["我爱北京天安门。", "ผมรักเธอ", "नमस्ते दुनिया"], ["我爱上海", "ผมรัก", "नमस्ते"]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Ours())
    rows = statistics(references, predictions, "char").rows
    for row, reference, prediction in zip(rows, references, predictions, strict=True):
        assert row[:3] == pytest.approx([each.fmeasure for each in scorer.score(reference, prediction).values()])
        assert row[0] > 0.3


def test_words_of_rouge() -> None:
    assert rouge_words("Don't stop_it, Café 3.5!") == ["don", "t", "stop", "it", "café", "3", "5"]
    assert rouge_words("我爱AI模型。ラー") == ["我", "爱", "ai", "模", "型", "ラ", "ー"]
    assert rouge_words("สวัสดี नमस्ते") == ["ส", "วั", "ส", "ดี", "नमस्ते"]
    assert rouge_words("?! \n") == []


@few
@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
def test_the_longest_common_subsequence_equals_the_table(first: list[str], second: list[str]) -> None:
    assert longest_common_subsequence(first, second) == _lcs_table(first, second)[-1][-1]


def test_shares_by_hand() -> None:
    references = ["a b c d e f", " x y ", "one", "two"]
    predictions = ["a b c d a b c d z", "x y\n", "", "  "]
    scores = score_texts(
        text_statistics(references, predictions, bleu_tokenizer="13a", cut=np.array([True, False, False, False]))
    )
    assert (scores["exact_match"], scores["empty_share"], scores["cut_share"]) == (0.25, 0.5, 0.25)
    assert scores["length_ratio"] == 11 / 10
    # Eight of nine words lie in a 4-gram that comes twice; the other predictions repeat nothing.
    assert scores["repetition"] == pytest.approx(8 / 9 / 4)
    assert scores["distinct_1"] == 7 / 11 and scores["distinct_2"] == 6 / 9


def test_repetition_and_distinct_at_their_ends() -> None:
    assert repeated_share([]) == repeated_share(list("abc")) == repeated_share(list("abcdefg")) == 0.0
    assert repeated_share(["a"] * 20) == 1.0
    assert distinct_share([["a"], []], order=2) is None
    assert distinct_share([["a", "a"], ["a", "a"]], order=2) == 0.5  # no pair spans two texts


def test_empty_predictions_score_zero_and_are_counted() -> None:
    scores = score_texts(statistics(["a b c d", "e f g h"], ["", " \n"]))
    assert scores["empty_share"] == 1.0 and scores["length_ratio"] == 0.0
    assert [scores[name] for name in ("bleu", "chrf", "rouge_1", "rouge_l", "exact_match", "repetition")] == [0.0] * 6
    assert scores["distinct_1"] is None and scores["distinct_2"] is None


def test_empty_references_are_refused_by_their_origin() -> None:
    with pytest.raises(DataError, match=r"pairs\.csv:3: the reference is empty\. .* drop the row") as caught:
        text_statistics(
            ["a", " ", "b", ""], ["a"] * 4, bleu_tokenizer="13a", origins=[f"pairs.csv:{line}" for line in range(2, 6)]
        )
    assert [problem.where for problem in caught.value.problems] == ["pairs.csv:3", "pairs.csv:5"]
    with pytest.raises(DataError, match="document 1: the reference is empty"):
        statistics([""], ["a"])


@pytest.mark.parametrize(("references", "predictions"), [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_unequal_lengths_are_refused(references: list[str], predictions: list[str]) -> None:
    with pytest.raises(ValueError, match="there must be documents"):
        statistics(references, predictions)


def test_long_texts_are_counted_fast() -> None:
    texts = [" ".join(random.Random(seed).choices(ENGLISH, k=1500)) for seed in range(10)]
    start = time.perf_counter()
    statistics(texts, texts[::-1])
    assert time.perf_counter() - start < 5  # the table of rouge_score alone takes ten seconds


def test_losses() -> None:
    losses = LossStatistics(np.array([2.0, 6.0]), np.array([1, 3]), np.array([10, 30]))
    assert score_losses(losses) == {"loss": 2.0, "perplexity": math.exp(2), "nats_per_character": 0.2}
    nothing = LossStatistics(np.zeros(2), np.zeros(2), np.zeros(2))
    assert score_losses(nothing) == {"loss": None, "perplexity": None, "nats_per_character": None}
    endless = LossStatistics(np.array([1e6]), np.ones(1), np.ones(1))
    assert score_losses(endless)["perplexity"] is None
    with pytest.raises(ValueError, match="finite"):
        score_losses(LossStatistics(np.array([np.nan]), np.ones(1), np.ones(1)))


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [("zh", "zh"), ("zh-CN", "zh"), ("ZH_Hant", "zh"), ("cmn", "zh"), ("ja", "ja-mecab"), ("jpn", "ja-mecab"),
     ("ko-KR", "ko-mecab"), ("de", "13a"), ("en-GB", "13a"), ("", "13a")],
)  # fmt: skip
def test_a_language_has_its_tokeniser(language: str, tokenizer: str) -> None:
    assert bleu_tokenizer_for(language) == tokenizer


@pytest.mark.parametrize(
    ("texts", "tokenizer"),
    [
        (["床前明月光"], "zh"),
        (["喝の村抹茶很好喝，真的很好喝"], "zh"),  # a Chinese text with one kana
        (["東京都", "東京都へ行きました"], "ja-mecab"),
        (["大韓民國의 首都는 서울이다"], "ko-mecab"),
        (["Привет, мир", "naïve"], "13a"),
        (["The word 中文 means the Chinese language"], "13a"),
        (["使用PyTorch训练模型"], "zh"),
        (["我们", "a long English sentence beside it"], "13a"),
        (["今日は晴れです", "今天天气很好，我们一起去公园散步吧"], "zh"),
        ([], "13a"),
    ],
)
def test_texts_have_the_tokeniser_of_most_characters(texts: list[str], tokenizer: str) -> None:
    assert bleu_tokenizer_for(texts) == tokenizer


def test_a_model_that_is_not_there_is_refused_without_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bleu_tokenizers, "SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setattr(bleu_tokenizers, "find_spec", lambda package: package)  # as if all packages were there
    monkeypatch.setattr("sacrebleu.utils.download_file", lambda *_: pytest.fail("the network was tried"))
    monkeypatch.setattr(
        "sacrebleu.tokenizers.tokenizer_spm.download_file", lambda *_: pytest.fail("the network was tried")
    )
    for name in ("flores200", "flores101"):
        with pytest.raises(EnvironmentFault, match=rf"generation\.bleu: .*{name} needs the model file .*not there"):
            check_bleu_tokenizer(name, where="generation.bleu")
        with pytest.raises(EnvironmentFault, match="needs the model file"):
            statistics(["a"], ["a"], name)


@pytest.mark.parametrize(("name", "extra"), [("ja-mecab", "ja"), ("ko-mecab", "ko")])
def test_a_missing_dictionary_names_its_extra(name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bleu_tokenizers, "find_spec", lambda package: None)
    with pytest.raises(EnvironmentFault, match=rf"pip install 'finetune\[{extra}\]'"):
        check_bleu_tokenizer(name)


def test_an_unknown_tokeniser_gets_a_suggestion() -> None:
    with pytest.raises(RecipeError, match=r"generation\.bleu: no BLEU tokeniser 'ja-meca'.*Did you mean 'ja-mecab'\?"):
        check_bleu_tokenizer("ja-meca", where="generation.bleu")


def test_every_metric_has_a_direction_and_a_test() -> None:
    falling = {"loss", "perplexity", "nats_per_character", "repetition", "cut_share", "empty_share"}
    metrics = TEXT_METRICS | LOSS_METRICS
    assert {name for name in metrics if not greater_is_better(name)} == falling
    assert set(MEANS) < set(TEXT_METRICS)
    for name in metrics:
        assert metrics[TESTED_INSTEAD.get(name, name)].adds_up
        assert compared_metric(name, generated=True) == name
    assert compared_metric("loss") == "log_loss" and compared_metric("bleu") == "bleu"
