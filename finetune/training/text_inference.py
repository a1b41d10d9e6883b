"""What a writer makes of documents: the nats of their learnt tokens, and the texts it writes for them.

The one path of evaluation, test and predict. Row i of a result is document i, whatever the batches were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets
import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from finetune.data.packing import best_fit
from finetune.training.batches import MICRO_BATCH_TOKENS, PASS_COST_TOKENS, of_device
from finetune.training.fused_gelu import fuse_gelu
from finetune.training.generating import generate
from finetune.training.next_token import GenerationSettings
from finetune.training.packed import Attention, Batch, causal_batches, prepare_packing, seq2seq_batches
from finetune.training.token_losses import OutputHead, evaluate_nats, find_head

DOCUMENTS_AT_A_TIME = 128
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class TokenSequence(NamedTuple):
    """ids (n,) of a causal model, and learn (n,): is the token a target of the loss?"""

    ids: list[int]
    learn: list[bool]


class TokenPair(NamedTuple):
    """source (s,) that the encoder reads, and ids (n,) that the decoder is to write."""

    source: list[int]
    ids: list[int]


Example = TokenSequence | TokenPair


@dataclass(frozen=True)
class TextModel:
    """A network with how its examples are read: what was found out about it, and how many tokens a block holds.

    `note` says why blocks are not packed, where they are not; `end_ids` are the tokens that end a text.
    """

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    block_tokens: int
    packed: bool
    attention: Attention
    head: OutputHead | None
    end_ids: frozenset[int]
    note: str = ""

    @classmethod
    def of(
        cls, network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, block_tokens: int, packing: bool,
        end_ids: Iterable[int],
    ) -> TextModel:  # fmt: skip
        """Tries on the network itself how it reads packed sequences, and what its output head is."""
        fuse_gelu(network)
        attention, fault = prepare_packing(network) if packing else ("padding", "")
        return cls(
            network, tokenizer, block_tokens, packed=attention != "padding", attention=attention,
            head=find_head(network), end_ids=frozenset(end_ids), note=fault,
        )  # fmt: skip

    @property
    def is_seq2seq(self) -> bool:
        return bool(self.network.config.is_encoder_decoder)

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id or 0)

    def batches(
        self,
        examples: Sequence[Any],
        bins: list[list[int]] | None = None,
        *,
        budget_tokens: int | None = None,
        pass_cost_tokens: int | None = None,
    ) -> Iterable[Batch]:
        """The examples in micro-batches, each in exactly one; without `bins` they are packed here."""
        device = self.network.device
        # Without gradients a pass keeps little, so it may be four times as large.
        budget = budget_tokens or 4 * of_device(MICRO_BATCH_TOKENS, device)
        cost = of_device(PASS_COST_TOKENS, device) if pass_cost_tokens is None else pass_cost_tokens
        if self.is_seq2seq:
            return seq2seq_batches(
                self.network, examples, pad_id=self.pad_id, budget_tokens=budget, pass_cost_tokens=cost
            )
        return causal_batches(
            examples, self.bins(examples) if bins is None else bins, attention=self.attention, pad_id=self.pad_id,
            budget_tokens=budget, pass_cost_tokens=cost,
        )  # fmt: skip

    def bins(self, examples: Sequence[Any]) -> list[list[int]] | None:
        """The numbers of the examples by block, each block packed as full as can be; None where none are packed."""
        if not self.packed:
            return None
        return best_fit([len(example.ids) for example in examples], room=self.block_tokens)


@dataclass(frozen=True)
class TextPredictions:
    """Of n documents: the nats (n,) of their learnt tokens together, and how many these are, None where nothing has
    probabilities; the characters (n,) of the learnt text; the text written for each, None where none was asked for,
    with its reference, and whether the length limit cut it off (n,).
    """

    nats: Floats | None
    tokens: Ints | None
    characters: Ints
    texts: list[str | None]
    references: list[str | None]
    cut: npt.NDArray[np.bool_]

    @property
    def written(self) -> Ints:
        """The numbers of the documents that a text was written for."""
        return np.array([row for row, text in enumerate(self.texts) if text is not None], dtype=np.int64)


@dataclass(frozen=True)
class Share:
    """Which part of the documents this process looks at: every `processes`-th, beginning with `process`."""

    process: int = 0
    processes: int = 1

    def of(self, numbers: Sequence[int]) -> list[int]:
        return list(numbers[self.process :: self.processes])

    def gathered(self, mine: dict[int, Any]) -> dict[int, Any]:
        """What every process found, by the document's number, on every process."""
        if self.processes == 1:
            return mine
        parts: list[Any] = [None] * self.processes
        torch.distributed.all_gather_object(parts, mine)
        return {number: found for part in parts for number, found in part.items()}


def predict_texts(
    model: TextModel,
    rows: datasets.Dataset,
    *,
    settings: GenerationSettings,
    written: Sequence[int] | None = None,
    share: Share = Share(),
    on_documents: Callable[[int], None] = lambda count: None,
) -> TextPredictions:
    """Score and write documents encoded for evaluation: rows of data/sequences.py with `reference` and `characters`.

    `written` are the numbers of those a text is written for; None is all. What is drawn goes by the document's number.
    `on_documents` hears of a document when it is scored, and again when its text is written, and may raise.
    """
    wanted = range(len(rows)) if written is None else sorted(written)
    scored = share.gathered(_scored(model, rows, share.of(range(len(rows))), on_documents))
    texts = share.gathered(_written(model, rows, share.of(wanted), settings, on_documents))
    references = rows.select_columns("reference")[:]["reference"]
    numbers = range(len(rows))
    return TextPredictions(
        nats=np.array([scored[number][0] for number in numbers]),
        tokens=np.array([scored[number][1] for number in numbers], dtype=np.int64),
        characters=np.asarray(rows.select_columns("characters")[:]["characters"], dtype=np.int64),
        texts=[texts[number][0] if number in texts else None for number in numbers],
        references=[references[number] if number in texts else None for number in numbers],
        cut=np.array([number in texts and texts[number][1] for number in numbers]),
    )


def decoded(model: TextModel, ids: Sequence[int]) -> str:
    """New tokens as text, without special tokens and as they stand."""
    return str(model.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _scored(
    model: TextModel, rows: datasets.Dataset, numbers: Sequence[int], on_documents: Callable[[int], None]
) -> dict[int, tuple[float, int]]:
    """Document -> nats of its learnt tokens together, and how many these are."""
    found: dict[int, tuple[float, int]] = {}
    for start in range(0, len(numbers), DOCUMENTS_AT_A_TIME):
        some = list(numbers[start : start + DOCUMENTS_AT_A_TIME])
        examples, owner = _examples(rows[some], seq2seq=model.is_seq2seq)
        nats, tokens = evaluate_nats(model.network, examples, model.batches, head=model.head)
        sums = np.bincount(owner, weights=nats, minlength=len(some)), np.bincount(owner, weights=tokens)
        found |= {number: (float(sums[0][row]), int(sums[1][row])) for row, number in enumerate(some)}
        on_documents(len(some))
    return found


def _examples(some: dict[str, Any], *, seq2seq: bool) -> tuple[list[Example], Ints]:
    """The examples of some documents, and the place of the document of each among them."""
    if seq2seq:
        pairs: list[Example] = [
            TokenPair(source, *ids) for source, ids in zip(some["source"], some["ids"], strict=True)
        ]
        return pairs, np.arange(len(pairs))
    owner = np.repeat(np.arange(len(some["ids"])), [len(sequences) for sequences in some["ids"]])
    flat = zip(
        (ids for sequences in some["ids"] for ids in sequences),
        (learn for sequences in some["learn"] for learn in sequences),
        strict=True,
    )
    return [TokenSequence(*row) for row in flat], owner


def _written(
    model: TextModel,
    rows: datasets.Dataset,
    numbers: Sequence[int],
    settings: GenerationSettings,
    on_documents: Callable[[int], None],
) -> dict[int, tuple[str, bool]]:
    """Document -> what the model writes for it, and whether the length limit cut it off."""
    if not numbers:
        return {}
    column = "source" if model.is_seq2seq else "prompt"
    prompts = rows.select_columns(column)[list(numbers)][column]
    texts = generate(
        model.network, prompts, settings=settings, pad_id=model.pad_id, eos_ids=model.end_ids, keys=numbers,
        on_documents=on_documents,
    )  # fmt: skip
    return {number: (decoded(model, text.ids), text.cut) for number, text in zip(numbers, texts, strict=True)}
