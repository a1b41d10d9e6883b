"""The baselines learn what is easy, keep a column for every class, and choose on validation only."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.errors import DataError
from finetune.scores.baselines import BASELINES, Inputs, Labelled, token_kind
from finetune.scores.classification import predicted_labels

TOPICS = (("goal", "match", "team"), ("bank", "market", "share"), ("actor", "film", "scene"))
TOPICS_IN_CHINESE = (("足球", "比赛"), ("银行", "市场"), ("电影", "演员"))


def documents(
    n: int, *, seed: int, classes: int = 3, topics: tuple[tuple[str, ...], ...] = TOPICS, joint: str = " "
) -> Labelled:
    """Texts of three topic words among ten words that mean nothing, and features with one dimension a class."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, size=n)
    fillers = [f"the{number}" for number in range(20)] if joint else list("的了在是我有和人这中")
    texts = [
        joint.join(generator.permutation([*generator.choice(fillers, 10), *generator.choice(topics[label], 3)]))
        for label in labels
    ]
    features = np.eye(classes)[labels] * 5 + generator.normal(size=(n, classes))
    return Labelled(Inputs(texts, features), labels)


def several_topics(n: int, *, seed: int) -> Labelled:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, size=(n, 3))
    texts = [" ".join(["the", *(TOPICS[topic][0] for topic in np.flatnonzero(row))]) for row in labels]
    return Labelled(Inputs(texts, labels * 4.0 + generator.normal(size=(n, 3))), labels)


def accuracy(name: str, *, train: Labelled, validation: Labelled, test: Labelled, multi_label: bool = False) -> float:
    fitted = BASELINES[name](train, validation, classes=3, multi_label=multi_label)
    probabilities = fitted.predict_probabilities(test.inputs)
    assert probabilities.shape == (len(test.labels), 3) and probabilities.dtype == np.float64
    assert (probabilities >= 0).all() and (probabilities <= 1).all()
    if not multi_label:
        assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-12)
    return float((predicted_labels(probabilities, multi_label=multi_label) == test.labels).mean())


def test_the_table_has_exactly_these() -> None:
    assert list(BASELINES) == ["majority", "naive_bayes", "tfidf_logistic", "frozen_encoder"]


@pytest.mark.parametrize("name", ["naive_bayes", "tfidf_logistic", "frozen_encoder"])
def test_an_easy_task_is_learned(name: str) -> None:
    train, validation, test = (documents(n, seed=seed) for seed, n in enumerate((150, 40, 60)))
    assert accuracy(name, train=train, validation=validation, test=test) > 0.95


@pytest.mark.parametrize("name", ["naive_bayes", "tfidf_logistic"])
def test_chinese_is_read_by_character(name: str) -> None:
    train, validation, test = (
        documents(n, seed=seed, topics=TOPICS_IN_CHINESE, joint="") for seed, n in enumerate((150, 40, 60))
    )
    assert accuracy(name, train=train, validation=validation, test=test) > 0.95
    assert BASELINES[name](train, validation, classes=3).settings["tokens"] == "characters"


@pytest.mark.parametrize("name", ["naive_bayes", "tfidf_logistic", "frozen_encoder"])
def test_multi_label_is_one_model_a_label(name: str) -> None:
    train, validation, test = (several_topics(n, seed=seed) for seed, n in enumerate((150, 40, 60)))
    assert accuracy(name, train=train, validation=validation, test=test, multi_label=True) > 0.9


def test_majority_gives_the_frequencies_of_training() -> None:
    train = Labelled(Inputs(list("abcd")), np.array([2, 2, 2, 0]))
    fitted = BASELINES["majority"](train, train, classes=4)
    assert fitted.predict_probabilities(Inputs(["x", "y"])).tolist() == [[0.25, 0, 0.75, 0]] * 2
    several = Labelled(Inputs(list("abcd")), np.array([[1, 0], [1, 0], [1, 1], [1, 0]]))
    fitted = BASELINES["majority"](several, several, classes=2, multi_label=True)
    assert fitted.predict_probabilities(Inputs(["x"])).tolist() == [[1.0, 0.25]]


@pytest.mark.parametrize("name", list(BASELINES))
def test_a_class_without_training_documents_keeps_its_column(name: str) -> None:
    train, validation = documents(60, seed=0, classes=2), documents(20, seed=1, classes=2)
    shifted = Labelled(train.inputs, train.labels * 2)
    fitted = BASELINES[name](shifted, Labelled(validation.inputs, validation.labels * 2), classes=4)
    probabilities = fitted.predict_probabilities(validation.inputs)
    assert probabilities.shape == (20, 4)
    assert (probabilities[:, [1, 3]] == 0).all() and (probabilities[:, [0, 2]] > 0).all()


@pytest.mark.parametrize("name", list(BASELINES))
def test_one_class_in_training_is_a_constant_and_no_crash(name: str) -> None:
    easy = documents(20, seed=0)
    only = Labelled(easy.inputs, np.ones(20, dtype=int))
    probabilities = BASELINES[name](only, easy, classes=3).predict_probabilities(easy.inputs)
    assert (probabilities == [0, 1, 0]).all()
    labels = np.column_stack([np.ones(20, dtype=int), np.zeros(20, dtype=int), np.arange(20) % 2])
    several = Labelled(easy.inputs, labels)
    probabilities = BASELINES[name](several, several, classes=3, multi_label=True).predict_probabilities(easy.inputs)
    assert (probabilities[:, 0] == 1).all() and (probabilities[:, 1] == 0).all()


@pytest.mark.parametrize("name", list(BASELINES))
def test_a_second_fit_gives_the_same_bits(name: str) -> None:
    train, validation = documents(80, seed=0), documents(30, seed=1)
    first, second = (
        BASELINES[name](train, validation, classes=3).predict_probabilities(validation.inputs) for _ in range(2)
    )
    assert (first == second).all()


def test_validation_chooses_the_strength() -> None:
    generator = np.random.default_rng(0)
    # A weak signal in a large majority: strong regularisation predicts one class only, weak finds both.
    labels = (np.arange(400) % 10 == 0).astype(int)
    texts = [
        f"the {generator.integers(50)} {'rare' if label and generator.random() < 0.9 else 'usual'}" for label in labels
    ]
    train, validation = (Labelled(Inputs(texts[part]), labels[part]) for part in (slice(0, 40), slice(40, 400)))
    chosen = BASELINES["tfidf_logistic"](train, validation, classes=2)
    assert chosen.settings == {"tokens": "words", "C": 10.0}
    # Where all strengths are equally good the strongest regularisation is kept.
    without_rare = Labelled(Inputs(["usual"] * 20), np.zeros(20, dtype=int))
    assert BASELINES["tfidf_logistic"](train, without_rare, classes=2).settings["C"] == 1.0


def test_frozen_encoder_wants_features_for_every_document() -> None:
    train = documents(20, seed=0)
    with pytest.raises(ValueError, match="features of every document"):
        BASELINES["frozen_encoder"](Labelled(Inputs(train.inputs.texts), train.labels), train, classes=3)
    fitted = BASELINES["frozen_encoder"](train, train, classes=3)
    with pytest.raises(ValueError, match="features of every document"):
        fitted.predict_probabilities(Inputs(["one", "two"], np.zeros((1, 3))))


def test_symbols_are_words_and_empty_texts_are_refused() -> None:
    labels = np.arange(20) % 2
    faces = Labelled(Inputs([":) ☺" if label else "☹ …" for label in labels]), labels)
    fitted = BASELINES["tfidf_logistic"](faces, faces, classes=2)
    assert (fitted.predict_probabilities(faces.inputs).argmax(axis=1) == labels).all()
    blank = Labelled(Inputs(["", " \n"] * 10), labels)
    with pytest.raises(DataError, match="all 20 training texts are empty"):
        BASELINES["naive_bayes"](blank, faces, classes=2)


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["The film was good."], "words"),
        (["这部电影很好看。"], "characters"),
        (["映画はとてもよかった"], "characters"),
        (["หนังเรื่องนี้ดีมาก"], "characters"),
        (["영화가 정말 좋았습니다"], "words"),
        (["用Python写机器学习代码"], "characters"),
        (["The word 好 means good, as everybody in the course knows."], "words"),
        (["Latin text first"] * 3000 + ["后面都是中文，所以要按字来读"] * 3000, "characters"),
        ([""], "words"),
    ],
)
def test_the_script_decides_what_a_token_is(texts: list[str], kind: str) -> None:
    assert token_kind(texts) == kind
