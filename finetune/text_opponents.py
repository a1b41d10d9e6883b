"""The baselines of a writer: cheap generators of the training split, and the model as it was before fine-tuning.

All are asked what the model is asked: nats of the same learnt tokens, where they have probabilities, and a text for the
same documents. So their scores stand beside its own, and paired tests compare document by document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice

import datasets
import numpy as np

from finetune.data.forms import Encoder
from finetune.data.row_streams import selected
from finetune.data.written_examples import asked_text
from finetune.few_shot import few_shot_answer, few_shot_rows
from finetune.progress import Progress
from finetune.recipe import TextBaselineName
from finetune.run_files import SplitScores
from finetune.runs import Run
from finetune.scores.hidden_markov import HiddenMarkov
from finetune.scores.ngram_model import fit_best_order
from finetune.scores.paired import greater_is_better
from finetune.scores.retrieval import NearestNeighbour, copy_source
from finetune.scores.token_models import TokenModel
from finetune.text_scorer import write_text_predictions
from finetune.training.text_inference import TextModel, TextPredictions, decoded, predict_texts
from finetune.writer_learner import WriterLearner
from finetune.writer_settings import WriterSettings, sequence_settings
from finetune.writers import largest_context

DOCUMENTS_AT_A_TIME = 256
# Of the training split, drawn by the seed: a nearest neighbour is looked for among so many.
MOST_NEIGHBOURS = 100_000
# Of validation, to choose the order of the n-gram model: all orders read them.
MOST_TOKENS_TO_CHOOSE_BY = 300_000
SEQUENCES_LOOKED_AT = 1000  # to find the token that ends a text

OnDocuments = Callable[[int], None]
Predict = Callable[[str, OnDocuments], TextPredictions]  # of a split; hears as `predict_texts` does
Sequences = list[tuple[list[int], list[bool]]]  # token ids, and whether each is learnt


@dataclass(frozen=True)
class TextOpponents:
    """Baseline -> split -> what it said, and its scores. `notes` tell how they were fitted."""

    predicted: dict[str, dict[str, TextPredictions]]
    scores: dict[str, dict[str, SplitScores]]
    notes: list[str] = field(default_factory=list)

    def strongest(self, metric: str) -> str | None:
        """The name of the baseline that is best on validation, of those that have this score; None without any."""
        scores = {name: by_split["validation"].scores.get(metric) for name, by_split in self.scores.items()}
        known = {name: one.value for name, one in scores.items() if one is not None and one.value is not None}
        if not known:
            return None
        sign = 1 if greater_is_better(metric) else -1
        return max(known, key=lambda name: sign * known[name])


def fit_text_opponents(
    names: Sequence[TextBaselineName], learner: WriterLearner, *, run: Run, splits: Sequence[str], progress: Progress
) -> TextOpponents:
    """Fit every baseline on train (the order of an n-gram on validation), predict `splits`, write predictions down."""
    made, scorer = TextOpponents({}, {}), learner.scorer
    for name in progress.bar(iterable=list(names), desc="baselines", unit="baseline"):
        predict, note = TEXT_BASELINES[name](learner)
        if note:
            made.notes.append(f"baseline {name}: {note}")
        made.predicted[name], made.scores[name] = {}, {}
        for split in splits:
            total = len(learner.rows[split]) + len(scorer.written(split))
            with progress.bar(total=total, desc=f"{name} on {split}", unit="document", leave=False) as bar:
                predicted = predict(split, bar.update)
            write_text_predictions(run.baseline_predictions(name, split), scorer.prepared, predicted, split, run=run)
            made.predicted[name][split] = predicted
            made.scores[name][split] = scorer.score(predicted, split)
    return made


# ---- the documents as tokens


def token_streams(
    learner: WriterLearner, split: str, *, most_tokens: int | None = None
) -> tuple[Iterator[list[int]], Iterator[list[bool]]]:
    """Token ids of a split's sequences, and whether each is learnt; no more sequences than reach `most_tokens`.

    The documents come in an order drawn by the seed, so that who reads the first of them reads a sample.
    """
    rows = learner.rows[split]
    order = np.random.default_rng([learner.scorer.seed, len(rows)]).permutation(len(rows))
    shuffled = selected(rows, order)

    def sequences() -> Iterator[tuple[list[int], list[bool]]]:
        read = 0
        for sequence in chain.from_iterable(document_sequences(learner, shuffled)):
            if most_tokens is not None and read >= most_tokens:
                return
            read += len(sequence[0])
            yield sequence

    return (ids for ids, _ in sequences()), (learn for _, learn in sequences())


def document_sequences(learner: WriterLearner, rows: datasets.Dataset) -> Iterator[Sequences]:
    """Each document's sequences. An encoder-decoder's labels follow its start token, so that the first is predicted."""
    start = [start_id(learner)] if learner.text_model.is_seq2seq else []
    columns = rows.select_columns(["ids", "learn"])
    for first in range(0, len(rows), DOCUMENTS_AT_A_TIME):
        some = columns[first : first + DOCUMENTS_AT_A_TIME]
        for ids, learn in zip(some["ids"], some["learn"], strict=True):
            flags = [[*(False for _ in start), *each] for each in learn]
            yield [([*start, *each], flag) for each, flag in zip(ids, flags, strict=True)]


def start_id(learner: WriterLearner) -> int:
    """What an encoder-decoder's labels are preceded by; any token does that is always the same."""
    start = getattr(learner.model.config, "decoder_start_token_id", None)
    return learner.text_model.pad_id if start is None else int(start)


def vocabulary(learner: WriterLearner) -> int:
    """The number of tokens that the model spreads its probability over."""
    return max(int(learner.model.config.get_text_config(decoder=True).vocab_size), len(learner.tokenizer))


# ---- without a model


def _copying(learner: WriterLearner) -> tuple[Predict, str]:
    def predict(split: str, on_documents: OnDocuments) -> TextPredictions:
        return _texts(learner, split, copy_source(_asked(learner, split)), on_documents)

    return predict, ""


def _nearest(learner: WriterLearner) -> tuple[Predict, str]:
    """The target of the training document whose prompt, source or question is most alike."""
    learnt = np.asarray(learner.rows["train"].select_columns("row")[:]["row"], dtype=np.int64)
    random = np.random.default_rng([learner.scorer.seed, len(learnt)])
    drawn = np.sort(random.choice(learnt, size=min(MOST_NEIGHBOURS, len(learnt)), replace=False))
    rows, form = selected(learner.scorer.prepared.splits["train"], drawn), learner.form
    sources = [asked_text(text, form=form) for text in rows.select_columns("text")[:]["text"]]
    targets = rows.select_columns("target")[:]["target"]
    # Where nothing is ever asked, all are equally near, and the first of equals answers.
    model = NearestNeighbour.fit(sources, targets) if any(source.strip() for source in sources) else None

    def predict(split: str, on_documents: OnDocuments) -> TextPredictions:
        asked = _asked(learner, split)
        texts = [targets[0]] * len(asked) if model is None else model.predict(asked)
        return _texts(learner, split, texts, on_documents)

    note = f"among {len(drawn):,} of {len(learnt):,} training examples" if len(drawn) < len(learnt) else ""
    return predict, note


def _asked(learner: WriterLearner, split: str) -> list[str]:
    """What is asked in each document that a text is written for."""
    written = np.asarray(learner.scorer.written(split), dtype=np.int64)
    texts = selected(learner.scorer.prepared.splits[split], written).select_columns("text")[:]["text"]
    return [asked_text(text, form=learner.form) for text in texts]


def _texts(learner: WriterLearner, split: str, texts: Sequence[str], on_documents: OnDocuments) -> TextPredictions:
    """Whole texts, one for each document written for, and no probabilities."""
    written, documents = learner.scorer.written(split), len(learner.rows[split])
    on_documents(documents + len(written))
    answers = {number: (text, False) for number, text in zip(written, texts, strict=True)}
    return _predictions(learner.rows[split], answers)


def _predictions(rows: datasets.Dataset, answers: dict[int, tuple[str, bool]]) -> TextPredictions:
    """Number of a document -> its text, and whether the length limit cut it off; without nats."""
    columns = rows.select_columns(["reference", "characters"])[:]
    numbers = range(len(rows))
    return TextPredictions(
        nats=None,
        tokens=None,
        characters=np.asarray(columns["characters"], dtype=np.int64),
        texts=[answers[number][0] if number in answers else None for number in numbers],
        references=[columns["reference"][number] if number in answers else None for number in numbers],
        cut=np.array([number in answers and answers[number][1] for number in numbers]),
    )


# ---- models of tokens


def _ngram(learner: WriterLearner) -> tuple[Predict, str]:
    train, train_learn = token_streams(learner, "train")
    validation, validation_learn = token_streams(learner, "validation", most_tokens=MOST_TOKENS_TO_CHOOSE_BY)
    model, _ = fit_best_order(
        train,
        validation,
        vocab_size=vocabulary(learner),
        train_learn=train_learn,
        validation_learn=validation_learn,
    )
    return _writing(model, learner), _told(model)


def _hidden_markov(learner: WriterLearner) -> tuple[Predict, str]:
    sequences, _ = token_streams(learner, "train")
    model = HiddenMarkov.fit(sequences, vocab_size=vocabulary(learner), seed=learner.scorer.seed)
    return _writing(model, learner), _told(model)


def _told(model: TokenModel) -> str:
    words = (f"{name.replace('_', ' ')} {value:,}" if isinstance(value, int) else f"{name} {value}"
             for name, value in model.settings.items())  # fmt: skip
    return ", ".join(words)


def _writing(model: TokenModel, learner: WriterLearner) -> Predict:
    """Nats of the learnt tokens, and texts drawn from the model as it is, each by the seed and its document's number.

    The likeliest tokens of such models run in circles, so they are drawn even where the model itself is greedy.
    """
    most, usual = learner.generation.max_new_tokens, _usual_end(learner)

    def write(number: int, prompt: Sequence[int]) -> tuple[str, bool]:
        generator = np.random.default_rng([learner.scorer.seed, number])
        ids = model.sample(prompt, max_new_tokens=most, eos_id=usual, generator=generator)
        end = next((place for place, token in enumerate(ids) if token in learner.text_model.end_ids), None)
        return decoded(learner.text_model, ids[:end]), end is None

    def predict(split: str, on_documents: OnDocuments) -> TextPredictions:
        rows = learner.rows[split]
        nats, tokens = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
        for number, sequences in enumerate(document_sequences(learner, rows)):
            of_tokens = np.concatenate([model.nats(ids, learn) for ids, learn in sequences])
            nats[number], tokens[number] = of_tokens.sum(), len(of_tokens)
            on_documents(1)
        answers = {}
        for number, prompt in _prompts(learner, split):
            answers[number] = write(number, prompt)
            on_documents(1)
        return replace(_predictions(rows, answers), nats=nats, tokens=tokens)

    return predict


def _prompts(learner: WriterLearner, split: str) -> Iterator[tuple[int, Sequence[int]]]:
    """The documents written for, and the tokens their texts begin after."""
    written = learner.scorer.written(split)
    if learner.text_model.is_seq2seq:
        start = [start_id(learner)]
        yield from ((number, start) for number in written)
        return
    prompts = learner.rows[split].select_columns("prompt")
    yield from ((number, prompts[int(number)]["prompt"]) for number in written)


def _usual_end(learner: WriterLearner) -> int | None:
    """The token that ends most texts of train; None where none of them is ever learnt, and only the limit ends."""
    ends = learner.text_model.end_ids
    some = islice(zip(*token_streams(learner, "train"), strict=True), SEQUENCES_LOOKED_AT)
    found = Counter(
        token for ids, learn in some for token, learnt in zip(ids, learn, strict=True) if learnt and token in ends
    )
    return found.most_common(1)[0][0] if found else None


# ---- the model before fine-tuning


def _zero_shot(learner: WriterLearner) -> tuple[Predict, str]:
    model, scorer = _fresh(learner, block_tokens=learner.text_model.block_tokens), learner.scorer

    def predict(split: str, on_documents: OnDocuments) -> TextPredictions:
        return predict_texts(
            model, learner.rows[split], settings=learner.generation, written=scorer.written(split),
            on_documents=on_documents,
        )  # fmt: skip

    return predict, ""


def _few_shot(learner: WriterLearner) -> tuple[Predict, str]:
    """The model before fine-tuning, shown some training examples before each prompt.

    What it writes ends at a blank line. It has nats where completions alone are learnt: a prompt that is learnt itself
    has other tokens in another place.
    """
    examples, scorer = drawn_examples(learner), learner.scorer
    settings = WriterSettings.model_validate(learner.settings)
    context = largest_context(learner.model.config, learner.tokenizer)
    limits = sequence_settings(settings, learner.tokenizer, context_tokens=context)
    room = limits.max_tokens * (1 + len(examples))
    if limits.context_tokens is not None:
        room = min(room, limits.context_tokens)
    model = _fresh(learner, block_tokens=max(room, limits.max_tokens))
    encoder = Encoder(learner.tokenizer, form="pairs", settings=limits, purpose="evaluate")

    def predict(split: str, on_documents: OnDocuments) -> TextPredictions:
        rows = few_shot_rows(learner.rows[split], scorer.prepared.splits[split], examples, encoder=encoder, room=room)
        said = predict_texts(
            model, rows, settings=learner.generation, written=scorer.written(split), on_documents=on_documents
        )
        answers = [(None, False) if text is None else few_shot_answer(text, examples) for text in said.texts]
        cut = said.cut & ~np.array([ended for _, ended in answers])
        said = replace(said, texts=[text for text, _ in answers], cut=cut)
        return said if limits.completions_only else replace(said, nats=None, tokens=None)

    return predict, f"{len(examples)} examples, fewer where {room:,} tokens hold no more"


def drawn_examples(learner: WriterLearner) -> list[tuple[str, str]]:
    """As many training examples as evaluation.shots says, drawn by the seed: prompt and completion."""
    learnt, shots = learner.rows["train"], learner.scorer.evaluation.shots
    random = np.random.default_rng([learner.scorer.seed, shots])
    drawn = random.choice(len(learnt), size=min(shots, len(learnt)), replace=False)
    documents = learner.scorer.prepared.splits["train"]
    rows = (documents[int(learnt[int(number)]["row"])] for number in drawn)
    return [(row["text"], row["target"]) for row in rows]


def _fresh(learner: WriterLearner, *, block_tokens: int) -> TextModel:
    """The model as it was before fine-tuning, on the device of the other."""
    network, trained = learner.fresh_model(), learner.text_model
    network.to(trained.network.device)  # type: ignore[arg-type]
    return TextModel.of(
        network, learner.tokenizer, block_tokens=block_tokens, packing=trained.packed, end_ids=trained.end_ids
    )


TEXT_BASELINES: dict[TextBaselineName, Callable[[WriterLearner], tuple[Predict, str]]] = {
    "copy_source": _copying,
    "nearest_neighbour": _nearest,
    "ngram": _ngram,
    "hidden_markov": _hidden_markov,
    "zero_shot": _zero_shot,
    "few_shot": _few_shot,
}
