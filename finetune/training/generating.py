"""Text from a model: many prompts at once, each continued as if it were alone.

Prompts of like length share a batch; keys and values are cached; a row that has ended leaves the batch. What a document
gets depends neither on its batch nor on the order: what is random is drawn by (seed, key of the document, step).
"""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from finetune.training.batches import (
    MICRO_BATCH_TOKENS,
    PASS_COST_TOKENS,
    cut_micro_batches,
    keyed_seed,
    of_device,
)
from finetune.training.growing_cache import joined_caches, keeps_all_keys, new_cache
from finetune.training.next_token import GenerationSettings as GenerationSettings
from finetune.training.next_token import NextToken
from finetune.training.packed import without_adapter

# Tokens of a batch when all of it is written: rows times (prompt and new tokens). More costs memory for the cache.
BATCH_TOKENS = {"cpu": 16_384, "cuda": 262_144}
# A padded token in the cache costs each step about 1/120 of a token's pass (GPT-2, width 256, one CPU thread); one
# batch more costs a pass more for each step, so that the number of steps cancels out.
STEPS_COST_PASSES = 120
ENDED_SHARE = 1 / 8  # of a batch's rows: when so many have ended they are taken out


@dataclass(frozen=True)
class Generated:
    """New tokens without the end token; `cut` where the limit or the model's context ended them, no end token.

    An end token that the model's own settings force at the limit (`forced_eos_token_id`, BART) counts as the limit.
    """

    ids: list[int]
    cut: bool


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    settings: GenerationSettings,
    pad_id: int,
    eos_ids: AbstractSet[int],
    budget_tokens: int | None = None,
    keys: Sequence[int] | None = None,
    on_documents: Callable[[int], None] = lambda count: None,
    on_token: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """What the model writes after each prompt, or to each source of an encoder-decoder; in the prompts' order.

    `keys` (documents,), not negative, name the documents for what is drawn; without them it is their numbers.
    `on_documents` hears how many have ended, and may raise; `on_token` hears (document, token) as they are written, but
    for beams only at the end. Raises ValueError for a prompt that is empty or leaves no room for a token.
    """
    network = without_adapter(model)
    rooms = [_room(network, len(prompt), settings.max_new_tokens) for prompt in prompts]
    task = _Task(
        network, prompts, rooms, settings, pad_id, frozenset(eos_ids),
        list(range(len(prompts)) if keys is None else keys), on_documents, on_token,
    )  # fmt: skip
    budget_tokens = budget_tokens or of_device(BATCH_TOKENS, network.device)
    results: dict[int, Generated] = {}
    was_training = model.training
    model.train(False)
    try:
        with torch.no_grad():
            if settings.num_beams > 1 or not _is_stepwise(network):
                _by_transformers(task, results, budget_tokens=budget_tokens)
            else:
                for documents in task.groups(range(len(prompts)), budget_tokens=budget_tokens):
                    _Rows(task, documents).write(results)
    finally:
        model.train(was_training)
    return [results[document] for document in range(len(prompts))]


def context_tokens(model: PreTrainedModel) -> int | None:
    """How many tokens the model has positions for, in the decoder where there are two sides; None: without limit."""
    config: Any = without_adapter(model).config.get_text_config(decoder=True)
    positions = getattr(config, "max_position_embeddings", None)
    return int(positions) if positions else None


def _room(network: PreTrainedModel, prompt_tokens: int, wanted: int) -> int:
    context = context_tokens(network)
    if not prompt_tokens:
        raise ValueError("an empty prompt: give at least the token that begins a text")
    if context is None:
        return wanted
    begun = prompt_tokens
    if network.config.is_encoder_decoder:
        if prompt_tokens > context:
            raise ValueError(f"a source of {prompt_tokens} tokens is longer than the model's {context}")
        begun = 1  # the decoder's start token
    if begun >= context:
        raise ValueError(f"a prompt of {begun} tokens leaves no room in the model's {context}")
    return min(wanted, context - begun)


def _is_stepwise(network: PreTrainedModel) -> bool:
    """Does it keep keys and values, of which rows can be taken out? Recurrent models keep a state of another kind."""
    takes = inspect.signature(network.forward).parameters
    return "past_key_values" in takes and not getattr(network, "_is_stateful", False)


@dataclass(frozen=True)
class _Task:
    """The whole of one call."""

    network: PreTrainedModel
    prompts: Sequence[Sequence[int]]
    rooms: list[int]
    settings: GenerationSettings
    pad_id: int
    eos_ids: frozenset[int]
    keys: list[int]
    on_documents: Callable[[int], None]
    on_token: Callable[[int, int], None] | None

    def groups(self, documents: Sequence[int], *, budget_tokens: int) -> Iterator[list[int]]:
        """Batches of prompts of like length, the longest first, so that what does not fit shows at once."""
        numbers = list(documents)
        for group in cut_micro_batches(
            [len(self.prompts[document]) + self.settings.max_new_tokens for document in numbers],
            budget_tokens=budget_tokens,
            pass_cost_tokens=STEPS_COST_PASSES * of_device(PASS_COST_TOKENS, self.network.device),
        ):
            yield [numbers[place] for place in group]

    def parts(self, documents: Sequence[int]) -> Iterator[list[int]]:
        """The same for reading their prompts, longest first."""
        device = self.network.device
        for part in cut_micro_batches(
            [len(self.prompts[document]) for document in documents],
            budget_tokens=4 * of_device(MICRO_BATCH_TOKENS, device),
            pass_cost_tokens=of_device(PASS_COST_TOKENS, device),
        ):
            yield [documents[place] for place in part]

    def padded(self, documents: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """input_ids and attention_mask (rows, longest).

        A prompt's last token stands beside the first new one; an encoder may count positions from the left.
        """
        longest = max(len(self.prompts[document]) for document in documents)
        ids, mask = [], []
        for document in documents:
            prompt = [*self.prompts[document]]
            padding, real = longest - len(prompt), len(prompt)
            right = self.network.config.is_encoder_decoder
            ids.append(prompt + [self.pad_id] * padding if right else [self.pad_id] * padding + prompt)
            mask.append([1] * real + [0] * padding if right else [0] * padding + [1] * real)
        device = self.network.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def is_cut(self, tokens: int, *, ended: bool) -> bool:
        network = self.network
        forced = network.config.is_encoder_decoder and network.generation_config.forced_eos_token_id is not None
        return not ended or (forced and tokens == self.settings.max_new_tokens - 1)

    def start_id(self) -> int:
        """The token an encoder-decoder begins with."""
        told = self.network.generation_config
        for config in (told, self.network.config):
            for name in ("decoder_start_token_id", "bos_token_id"):
                if (start := getattr(config, name, None)) is not None:
                    return int(start)
        raise ValueError("the model names no decoder_start_token_id")


# ---- our own loop


@dataclass
class _Rows:
    """The documents of one batch; those that have ended leave it some at a time."""

    task: _Task
    documents: list[int]
    written: dict[int, list[int]] = field(default_factory=dict)

    def write(self, results: dict[int, Generated]) -> None:
        """Fill in `results` for all of them."""
        task, network = self.task, self.task.network
        self.written = {document: [] for document in self.documents}
        inputs, scores = self._first_inputs()
        longest = max(len(task.prompts[document]) for document in self.documents)
        paired = network.config.is_encoder_decoder
        next_token = NextToken(
            network,
            task.settings,
            eos_ids=task.eos_ids,
            keys=[task.keys[document] for document in self.documents],
            paddings=[0 if paired else longest - len(task.prompts[document]) for document in self.documents],
        )
        for step in range(task.settings.max_new_tokens):
            read = inputs.pop("read")
            if scores is None:
                scores = network(**inputs, use_cache=True).logits[:, -1].float()
            tokens = next_token(read, scores, step=step)
            scores = None
            inputs = self._next_inputs(inputs, read, tokens)
            for document, token in zip(self.documents, tokens.tolist(), strict=True):
                if document not in results:
                    self._take(document, token, results)
            kept = [row for row, document in enumerate(self.documents) if document not in results]
            if not kept:
                return
            # Taking rows out copies the cache, which costs about one step.
            if len(kept) <= len(self.documents) * (1 - ENDED_SHARE):
                self.documents = [self.documents[row] for row in kept]
                next_token.keep(kept)
                inputs = _rows_of(inputs, torch.tensor(kept, device=tokens.device))

    def _take(self, document: int, token: int, results: dict[int, Generated]) -> None:
        ids = self.written[document]
        ended = token in self.task.eos_ids
        if not ended:
            ids.append(token)
            if self.task.on_token is not None:
                self.task.on_token(document, token)
        if ended or len(ids) >= self.task.rooms[document]:
            results[document] = Generated(ids, cut=self.task.is_cut(len(ids), ended=ended))
            self.task.on_documents(1)

    def _first_inputs(self) -> tuple[dict[str, Any], torch.Tensor | None]:
        """The forward's arguments, and under "read" all tokens so far (rows, t); scores where there are some already.

        Prompts are read in parts of like length: their padding is then all that the batch's costs.
        """
        task, network = self.task, self.task.network
        parts = list(task.parts(self.documents)) if keeps_all_keys(network) else [self.documents]
        self.documents = [document for part in parts for document in part]
        ids, mask = task.padded(self.documents)
        if network.config.is_encoder_decoder:
            start = torch.full((len(ids), 1), task.start_id(), device=ids.device)
            return {
                "encoder_outputs": BaseModelOutput(last_hidden_state=self._encoded(parts, longest=ids.shape[1])),
                "attention_mask": mask,
                "decoder_input_ids": start,
                "past_key_values": new_cache(network),
                "read": start,
            }, None
        takes = inspect.signature(network.forward).parameters
        scores, caches = [], []
        for part in parts:
            some, seen = task.padded(part)
            inputs = {"input_ids": some, "attention_mask": seen, "past_key_values": new_cache(network)}
            if "position_ids" in takes:
                inputs["position_ids"] = (seen.cumsum(1) - 1).clamp(min=0)
            if "logits_to_keep" in takes:
                inputs["logits_to_keep"] = 1
            output = network(**inputs, use_cache=True)
            scores.append(output.logits[:, -1].float())
            caches.append(output.past_key_values)
        inputs = {"attention_mask": mask, "past_key_values": joined_caches(caches, longest=ids.shape[1]), "read": ids}
        if "position_ids" in takes:
            inputs["position_ids"] = mask.sum(1, keepdim=True) - 1
        return inputs, torch.cat(scores)

    def _encoded(self, parts: list[list[int]], *, longest: int) -> torch.Tensor:
        """The encoder's last hidden states (rows, longest, d) of the sources, which are padded on the right."""
        encoder = self.task.network.get_encoder()
        states = []
        for part in parts:
            ids, mask = self.task.padded(part)
            some = encoder(input_ids=ids, attention_mask=mask)[0]
            states.append(torch.nn.functional.pad(some, (0, 0, 0, longest - some.shape[1])))
        return torch.cat(states)

    def _next_inputs(self, inputs: dict[str, Any], read: torch.Tensor, tokens: torch.Tensor) -> dict[str, Any]:
        following = {**inputs, "read": torch.cat([read, tokens[:, None]], dim=1)}
        if "decoder_input_ids" in inputs:
            return {**following, "decoder_input_ids": tokens[:, None]}
        mask = inputs["attention_mask"]
        following["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if "position_ids" in inputs:
            following["position_ids"] = inputs["position_ids"][:, -1:] + 1
        return {**following, "input_ids": tokens[:, None]}


def _rows_of(inputs: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """The same inputs with these rows only."""
    inputs["past_key_values"].batch_select_indices(rows)
    if "encoder_outputs" in inputs:
        encoded = inputs["encoder_outputs"]
        encoded["last_hidden_state"] = encoded["last_hidden_state"][rows]
    return {name: value[rows] if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


# ---- transformers' own generate: beams, and models without a cache of keys


def _by_transformers(task: _Task, results: dict[int, Generated], *, budget_tokens: int) -> None:
    settings = task.settings
    # Padding would count as history, and rows of a batch share one limit.
    history = settings.repetition_penalty != 1 or settings.no_repeat_ngram_size
    apart = history or not _is_stepwise(task.network)
    alike: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for document, prompt in enumerate(task.prompts):
        alone = document if settings.do_sample else -1
        alike[(len(prompt) if apart or task.rooms[document] < settings.max_new_tokens else 0, alone)].append(document)
    for documents in alike.values():
        for group in task.groups(documents, budget_tokens=max(1, budget_tokens // settings.num_beams)):
            with torch.random.fork_rng():
                torch.manual_seed(keyed_seed(settings.seed, task.keys[group[0]]))
                _write_group(task, group, results)
            task.on_documents(len(group))


def _write_group(task: _Task, group: list[int], results: dict[int, Generated]) -> None:
    inputs, mask = task.padded(group)
    config = _generation_config(task, room=min(task.rooms[document] for document in group))
    network: Any = task.network
    output = network.generate(inputs, attention_mask=mask, generation_config=config)
    begin = 1 if network.config.is_encoder_decoder else inputs.shape[1]
    for document, row in zip(group, output[:, begin:].tolist(), strict=True):
        end = next((place for place, token in enumerate(row) if token in task.eos_ids), None)
        ids = row if end is None else row[:end]
        results[document] = Generated(ids, cut=task.is_cut(len(ids), ended=end is not None))
        if task.on_token is not None:
            for token in ids:
                task.on_token(document, token)


def _generation_config(task: _Task, *, room: int) -> Any:
    settings = task.settings
    config: Any = copy.deepcopy(task.network.generation_config)
    names = ("min_new_tokens", "do_sample", "repetition_penalty", "no_repeat_ngram_size", "num_beams", "length_penalty")
    config.update(**{name: getattr(settings, name) for name in names})
    config.update(max_length=None, min_length=None, max_new_tokens=room, pad_token_id=task.pad_id)
    config.update(eos_token_id=sorted(task.eos_ids) or None, early_stopping=False)
    if settings.do_sample:
        config.update(temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p)
    return config
