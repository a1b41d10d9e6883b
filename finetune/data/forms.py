"""The four forms of examples, each into tokens: plain text, prompt and completion, chat, source and target."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import numpy as np

from finetune.data.chats import (
    ChatFault,
    Message,
    NothingToLearn,
    Span,
    TokenSequence,
    characters_of,
    chat_prompt,
    chat_sequences,
    end_of_turn,
    template_of,
)
from finetune.data.packing import blocks_of, windows_of
from finetune.data.store import code_version, fingerprint
from finetune.errors import ModelError, RecipeError
from finetune.recipe_data import Form

PROBES = ("a", "1", ".", "的")
CANNOT_STOP = "warning: no special token ends what is learnt, so the model cannot learn where to stop"

Purpose = Literal["train", "evaluate"]


@dataclass(frozen=True, kw_only=True)
class SequenceSettings:
    """What a recipe says about sequences; what another form of examples has no use for may stay away.

    `context_tokens` are the positions of the model, which a prompt and `max_new_tokens` share: None takes `max_tokens`.
    """

    max_tokens: int
    too_long: Literal["cut", "drop", "refuse"]
    max_new_tokens: int
    context_tokens: int | None = None
    stride: int = 0  # plain text
    prompt_tokens: int = 1  # plain text
    completions_only: bool = True  # pairs and chats
    template: str | None = None  # chats: Jinja, None for the model's own
    max_target_tokens: int = 0  # seq2seq


class Row(NamedTuple):
    """One document: its sequences and what goes with them, and what was counted; see sequences.FEATURES.

    `dropped` or `refused` says why there are no sequences. `prompt_differs`: the last prompt, tokenised alone as when
    the model writes, is not the beginning of the whole chat's tokens.
    """

    ids: Sequence[Sequence[int]] = ()
    learn: Sequence[Sequence[bool]] = ()
    source: Sequence[int] = ()
    prompt: Sequence[int] = ()
    prompt_cut: int = 0
    reference: str = ""
    characters: int = 0
    tokens: int = 0
    target_tokens: int = 0
    tokens_cut: int = 0
    dropped: str = ""
    refused: str = ""
    prompt_differs: bool = False


class Encoder:
    """A tokenizer, a form of examples and settings, ready to make rows of texts and targets."""

    def __init__(self, tokenizer: Any, *, form: Form, settings: SequenceSettings, purpose: Purpose) -> None:
        if not tokenizer.is_fast:
            raise ModelError("model", "its tokenizer gives no character offsets", "Choose one with a tokenizer.json.")
        self.tokenizer, self.form, self.settings, self.purpose = tokenizer, form, settings, purpose
        self.most = settings.max_tokens
        self.opening, self.ending = _special_tokens(tokenizer)
        eos = tokenizer.eos_token_id
        self.closing = [] if eos is None else [eos]
        self.start = self.opening or [id for id in (tokenizer.bos_token_id, eos) if id is not None][:1]
        self.template = template_of(tokenizer, settings.template) if form == "chat" else ""
        self.prompt_room = (settings.context_tokens or self.most) - settings.max_new_tokens
        if purpose == "evaluate" and form != "seq2seq" and self.prompt_room <= len(self.opening):
            raise RecipeError(
                "generation.max_new_tokens",
                f"{settings.max_new_tokens:,} leave no room for a prompt in {settings.context_tokens or self.most:,}",
                f"Write at most {(settings.context_tokens or self.most) // 2:,}.",
            )
        if self.most <= len(self.opening) + len(self.ending) + 1:
            raise RecipeError("windows.max_tokens", f"{self.most} leave no room after the tokenizer's special tokens")
        words = [re.escape(token) for token in tokenizer.all_special_tokens if token != tokenizer.unk_token]
        self.special = re.compile("|".join(words) if words and not tokenizer.split_special_tokens else r"(?!)")
        self.notes = [] if self._can_stop() else [CANNOT_STOP]

    @property
    def fingerprint(self) -> str:
        """Everything that decides what a text becomes."""
        tokenizer, state = self.tokenizer, json.loads(self.tokenizer.backend_tokenizer.to_str())
        for asked in ("truncation", "padding"):  # by the last caller; every call here says what it wants
            state.pop(asked, None)
        rules = hashlib.sha256(json.dumps(state, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
        tokens = (rules, tokenizer.special_tokens_map, tokenizer.all_special_tokens, tokenizer.split_special_tokens)
        code = (
            code_version("sequences.py", "forms.py", "chats.py", "packing.py"),
            version("tokenizers"),
            version("transformers"),
        )
        chosen = replace(self.settings, template=self.template)
        return fingerprint("sequences", *code, *tokens, self.form, self.purpose, chosen)

    def rows(self, given: list[tuple[str, str]]) -> Iterator[Row]:
        """One row for each text with its target, in order."""
        encode = {"text": self._text, "pairs": self._pairs, "chat": self._chats, "seq2seq": self._seq2seq}[self.form]
        yield from encode(given)

    def prompts(self, texts: list[str]) -> Iterator[Row]:
        """What new texts are written from, in order: `prompt` with `prompt_cut`, or `source` with `tokens_cut`.

        As in an evaluation, but plain text is a prompt as a whole. A chat is the JSON of its messages, the user's last.
        `refused` says why a text has none. Only for the purpose `evaluate`.
        """
        if self.form == "chat":
            yield from (self._asked(json.loads(text), Row()) for text in texts)
            return
        for ids, _ in self._tokenized(texts):
            if not ids:
                yield Row(refused="the tokenizer leaves nothing of the text")
            elif self.form == "seq2seq":
                yield self._read(ids)
            else:
                yield self._prompted(Row(), [*self.opening, *ids], lead=len(self.opening))

    def writes_specials(self, text: str) -> bool:
        """Whether a text holds the written form of a special token, which the tokenizer takes for the token itself."""
        return self.special.search(text) is not None

    def _text(self, given: list[tuple[str, str]]) -> Iterator[Row]:
        """Plain text: tokenised whole, opened and closed once, then windows to be scored or blocks to learn."""
        texts = [text for text, _ in given]
        for text, (ids, offsets) in zip(texts, self._tokenized(texts), strict=True):
            whole, lead = [*self.opening, *ids, *self.closing], len(self.opening)
            if not text.strip() or not ids or len(whole) == 1:
                yield self._without("nothing to learn: the tokenizer leaves too little of the text", len(whole))
                continue
            if self.purpose == "train":
                spans = blocks_of(len(whole), most=self.most)
            else:
                spans = windows_of(len(whole), most=self.most, stride=self.settings.stride)
            unlearnt = [max(first, lead) - start for start, _, first in spans]
            row = Row(
                ids=[whole[start:end] for start, end, _ in spans],
                learn=[_flags(count, end - start) for count, (start, end, _) in zip(unlearnt, spans, strict=True)],
                characters=int(characters_of(offsets)[0 if lead else 1 :].sum()),
                tokens=len(whole),
            )
            yield row if self.purpose == "train" else self._continued(row, text, ids, offsets)

    def _continued(self, row: Row, text: str, ids: list[int], offsets: list[Span]) -> Row:
        """Plain text, to be continued after its first tokens, or after half of them where it is short."""
        most = min(self.settings.prompt_tokens, self.prompt_room - len(self.opening))
        prompt = min(most, max(len(ids) // 2, 0 if self.opening else 1))
        # A character of several tokens is not cut.
        while prompt > 1 and prompt < len(ids) and offsets[prompt][0] < offsets[prompt - 1][1]:
            prompt -= 1
        begins = offsets[prompt - 1][1] if prompt else 0
        following = offsets[prompt : prompt + self.settings.max_new_tokens]
        ends = max((end for _, end in following), default=begins)
        return row._replace(prompt=[*self.opening, *ids[:prompt]], reference=text[begins:ends])

    def _pairs(self, given: list[tuple[str, str]]) -> Iterator[Row]:
        """Prompt and completion, tokenised apart: when it writes, the model has the tokens of the prompt alone."""
        prompts = self._tokenized([prompt for prompt, _ in given])
        completions = self._tokenized([completion for _, completion in given])
        for (_, target), (prompt, before), (ids, offsets) in zip(given, prompts, completions, strict=True):
            start = [*self.opening, *prompt] if prompt else self.start
            tokens = len(start) + len(ids) + len(self.closing)
            if not target.strip() or not ids:
                yield self._without("nothing to learn: the completion is empty", tokens)
            elif not start:
                yield Row(refused="the prompt is empty, and the tokenizer has no token to begin with", tokens=tokens)
            else:
                lead = len(start) - len(prompt)
                unlearnt = len(start) if self.settings.completions_only else max(1, lead)
                characters = [*[0] * lead, *characters_of(before), *characters_of(offsets), *[0] * len(self.closing)]
                whole = TokenSequence([*start, *ids, *self.closing], _flags(unlearnt, tokens), characters)
                row = self._fitted(whole, written=len(start), lead=lead)
                if self.purpose == "evaluate":
                    row = self._prompted(row._replace(reference=target), start, lead=lead)
                yield row

    def _chats(self, given: list[tuple[str, str]]) -> Iterator[Row]:
        """The messages before the last answer, as JSON, and the last answer."""
        befores = [json.loads(text) for text, _ in given]
        chats = [
            [*before, {"role": "assistant", "content": target}]
            for before, (_, target) in zip(befores, given, strict=True)
        ]
        made = chat_sequences(chats, self.tokenizer, template=self.template)
        for before, (_, target), chat in zip(befores, given, made, strict=True):
            if isinstance(chat, NothingToLearn):
                yield self._without(str(chat), 0)
                continue
            if isinstance(chat, ChatFault):
                yield Row(refused=str(chat))
                continue
            last = max(n for n, learnt in enumerate(chat.learn) if learnt and not chat.learn[n - 1])
            if not self.settings.completions_only:
                chat = TokenSequence(chat.ids, _flags(1, len(chat.ids)), chat.characters)
            lead = int(chat.ids[0] == self.tokenizer.bos_token_id)
            row = self._fitted(chat, written=last, lead=lead)
            if self.purpose == "evaluate":
                row = self._asked(before, row._replace(reference=target), whole=chat.ids)
            yield row

    def _asked(self, messages: list[Message], row: Row, *, whole: Sequence[int] = ()) -> Row:
        """The row with the prompt for an answer to these messages; `whole` is the chat with its answer, if any."""
        try:
            prompt = chat_prompt(messages, self.tokenizer, template=self.template)
        except ChatFault as fault:
            return Row(refused=str(fault))
        row = self._prompted(row, prompt, lead=int(prompt[:1] == [self.tokenizer.bos_token_id]))
        return row._replace(prompt_differs=list(whole[: len(prompt)]) != prompt)

    def _can_stop(self) -> bool:
        if self.form != "chat":
            return bool(self.closing)
        try:
            return end_of_turn(self.tokenizer, template=self.template) is not None
        except ChatFault:  # a template that refuses the probe says so of the examples too, or has its own rules
            return True

    def _fitted(self, whole: TokenSequence, *, written: int, lead: int) -> Row:
        """At most `max_tokens` of a sequence whose last text begins at token `written`, after `lead` special tokens.

        The left of what comes before gives way first. A text too long by itself loses its end, and with it the token
        that says to stop, for it does not stop there.
        """
        count, most = len(whole.ids), self.most
        if count > most and self.stays_out:
            return self._out(Row(tokens=count), f"longer than windows.max_tokens {most:,}", found=f"{count:,} tokens")
        kept = np.arange(count)
        if count > most:
            least = max(lead, 1)  # something must come before the first token that is learnt
            begin = min(count - most, written - least) + lead
            kept = np.concatenate([kept[:lead], kept[begin:]])[:most]
        learn = np.asarray(whole.learn)[kept]
        learn[0] = False
        return Row(
            ids=[np.asarray(whole.ids)[kept].tolist()],
            learn=[learn.tolist()],
            characters=int(np.asarray(whole.characters)[kept][learn].sum()),
            tokens=count,
            tokens_cut=count - len(kept),
        )

    def _prompted(self, row: Row, prompt: list[int], *, lead: int) -> Row:
        """The row with a prompt: of one that is too long, what stands after its `lead` special tokens is cut away."""
        cut = max(0, len(prompt) - self.prompt_room)
        return row._replace(prompt=[*prompt[:lead], *prompt[lead + cut :]], prompt_cut=cut)

    def _seq2seq(self, given: list[tuple[str, str]]) -> Iterator[Row]:
        """Source and target with their special tokens; a target that is cut loses the token that says to stop."""
        texts, targets = [source for source, _ in given], [target for _, target in given]
        labels = self._tokenized(targets, as_targets=True)
        most = self.settings.max_target_tokens
        longest = f"longer than windows.max_tokens {self.most:,} or windows.max_target_tokens {most:,}"
        for target, (source, _), (ids, offsets) in zip(targets, self._tokenized(texts), labels, strict=True):
            if self.closing and self.closing[0] not in ids[1:]:
                ids, offsets = [*ids, *self.closing], [*offsets, (0, 0)]
            row = Row(tokens=len(self.opening) + len(source) + len(self.ending), target_tokens=len(ids))
            if not target.strip() or not any(end for _, end in offsets):
                yield self._without("nothing to learn: the target is empty", row.tokens)
            elif self.stays_out and (row.tokens > self.most or len(ids) > most):
                yield self._out(row, longest, found=f"{row.tokens:,} and {len(ids):,} tokens")
            else:
                read = self._source(source)
                yield row._replace(
                    ids=[ids[:most]],
                    learn=[_flags(0, len(ids[:most]))],
                    source=read,
                    reference=target if self.purpose == "evaluate" else "",
                    characters=int(characters_of(offsets[:most]).sum()),
                    tokens_cut=row.tokens - len(read) + max(0, len(ids) - most),
                )

    def _source(self, ids: list[int]) -> list[int]:
        """What the encoder reads: as much of a source as fits between the special tokens, from its beginning."""
        return [*self.opening, *ids[: self.most - len(self.opening) - len(self.ending)], *self.ending]

    def _read(self, ids: list[int]) -> Row:
        """A source without a target, to be written from."""
        read, tokens = self._source(ids), len(self.opening) + len(ids) + len(self.ending)
        if self.stays_out and tokens > self.most:
            return Row(refused=f"longer than windows.max_tokens {self.most:,}. Found: {tokens:,} tokens", tokens=tokens)
        return Row(source=read, tokens=tokens, tokens_cut=tokens - len(read))

    @property
    def stays_out(self) -> bool:
        """Whether an example that is too long has no place; an evaluation cuts where training drops."""
        return self.settings.too_long == "refuse" or (self.settings.too_long == "drop" and self.purpose == "train")

    def _out(self, row: Row, what: str, *, found: str) -> Row:
        if self.settings.too_long == "drop":
            return row._replace(dropped=what)
        return row._replace(refused=f"{what}. Found: {found}. Raise it, or write windows.too_long: cut")

    def _without(self, what: str, tokens: int) -> Row:
        """A document with nothing to learn: left out of training, refused in an evaluation, whose scores need it."""
        return Row(tokens=tokens, dropped=what) if self.purpose == "train" else Row(tokens=tokens, refused=what)

    def _tokenized(self, texts: list[str], *, as_targets: bool = False) -> Iterator[tuple[list[int], list[Any]]]:
        """Ids and offsets of each text; as targets with the special tokens of a target, otherwise without any."""
        encoded = self.tokenizer(
            **({"text_target": texts} if as_targets else {"text": texts}),
            add_special_tokens=as_targets,
            truncation=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        yield from zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)


def _flags(unlearnt: int, count: int) -> list[bool]:
    """Whether each of `count` tokens is learnt: all but the first `unlearnt`."""
    return [False] * min(unlearnt, count) + [True] * max(0, count - unlearnt)


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text: `<s>` and nothing, nothing and `</s>`, or nothing at all."""
    if not tokenizer.num_special_tokens_to_add():
        return [], []
    for probe in PROBES:
        bare, whole = (tokenizer(probe, add_special_tokens=added)["input_ids"] for added in (False, True))
        for before in range(len(whole) - len(bare) + 1) if bare else ():
            if whole[before : before + len(bare)] == bare:
                return whole[:before], whole[before + len(bare) :]
    raise ModelError("model", "its tokenizer has no token for any of " + ", ".join(PROBES), "Choose another model.")
