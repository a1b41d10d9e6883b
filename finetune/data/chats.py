"""Chats: a list of messages becomes token ids through a chat template, and only the assistant's turns are learnt.

Which tokens are the assistant's is read off the template itself: it marks them with `{% generation %}`, or it is
rendered up to each turn, and what the turn added is the turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError, TemplateSyntaxError

from finetune.errors import ModelError, did_you_mean, listed

# For models without a template of their own. It needs no new token: the tokenizer's end token closes an answer, so
# every generator stops there. An answer begins on a line of its own, because a blank before it would become part of
# its first token, and the prompt alone would have other tokens than the same words in the whole chat.
DEFAULT_CHAT_TEMPLATE = """\
{% for message in messages %}
{{ message['role'] | capitalize }}:
{{ message['content'] }}{{ eos_token if message['role'] == 'assistant' }}
{% endfor %}
{% if add_generation_prompt %}
Assistant:
{% endif %}
"""
ROLES = ("system", "user", "assistant")
OTHER_NAMES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "developer": "system"}
MOST_FAULTS_SHOWN = 3

_TAG_BEGIN = re.compile(r"\{%([-+]?)\s*generation\s*([-+]?)%\}")
_TAG_END = re.compile(r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}")
_BEGIN, _END = "\ue000<\ue001", "\ue001>\ue000"  # of Unicode's private use: no text has them

Ints = npt.NDArray[np.int64]
Span = tuple[int, int]


class Message(TypedDict):
    role: Literal["system", "user", "assistant"]
    content: str


class ChatFault(ValueError):
    """What is wrong with one chat, and what to do; the caller knows the row."""

    def __init__(self, what: str, do: str = "") -> None:
        self.what, self.do = what, do
        super().__init__(f"{what}. {do}".rstrip())


class NothingToLearn(ChatFault):
    """The template accepts the chat, and shows nothing of the assistant's."""


@dataclass(frozen=True)
class TokenSequence:
    """Three lists of one length: token ids, whether each is a target of the loss, and the characters it stands for.

    The characters are those since the end of the token before; special tokens stand for none.
    """

    ids: list[int]
    learn: list[bool]
    characters: list[int]


def check_messages(value: object, *, ends_with: Literal["assistant", "user"] = "assistant") -> list[Message]:
    """The messages of a chat, from a list of {role, content} or the JSON of one, with these two keys alone.

    `ends_with` is the role of the last message: the assistant's to learn from, the user's to be answered.
    Raises ChatFault with all that is wrong.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ChatFault(f"not a chat. Found: {_shown(value)}", "Write a list of {role, content}.") from None
    if not isinstance(value, list | tuple) or not value:
        raise ChatFault(f"not a chat. Found: {_shown(value)}", "Write a list of {role, content}.")
    faults = [fault for number, message in enumerate(value) for fault in _message_faults(message, number)]
    if not faults:
        faults = list(_order_faults([message["role"] for message in value], ends_with=ends_with))
    if faults:
        more = f"; and {len(faults) - MOST_FAULTS_SHOWN} more" if len(faults) > MOST_FAULTS_SHOWN else ""
        raise ChatFault("; ".join(faults[:MOST_FAULTS_SHOWN]) + more)
    return [{"role": message["role"], "content": message["content"]} for message in value]


def template_of(tokenizer: Any, template: str | None = None) -> str:
    """The Jinja source that is used: `template`, or the tokenizer's own, or DEFAULT_CHAT_TEMPLATE.

    Save it with the tokenizer (`tokenizer.chat_template`), and plain transformers reads chats as they were learnt.
    """
    if template is None and not tokenizer.chat_template:
        return plain_template(tokenizer)
    try:
        return str(tokenizer.get_chat_template(template))
    except ValueError:  # several templates, none of them named `default`
        names = listed(sorted(tokenizer.chat_template))
        raise ModelError("chat template", f"the model has several, none called default. Found: {names}") from None


def plain_template(tokenizer: Any) -> str:
    """DEFAULT_CHAT_TEMPLATE, after the begin token where this tokenizer puts one before every text."""
    begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return ("{{ bos_token }}" if begins else "") + DEFAULT_CHAT_TEMPLATE


def chat_sequence(messages: Sequence[Message], tokenizer: Any, *, template: str | None = None) -> TokenSequence:
    """The tokens of a whole chat; learnt are those of the assistant's turns, each with the token that ends it.

    Special tokens are those that the template writes, and no others: never a second begin token. A token that holds
    the end of a header and the beginning of an answer is learnt. Raises ChatFault where the template refuses the
    chat or its turns cannot be told, ModelError for a template that is no Jinja.
    """
    [made] = chat_sequences([messages], tokenizer, template=template)
    if isinstance(made, ChatFault):
        raise made
    return made


def chat_sequences(
    chats: Sequence[Sequence[Message]], tokenizer: Any, *, template: str | None = None
) -> list[TokenSequence | ChatFault]:
    """`chat_sequence` for many chats; a ChatFault stands in the place of one that has it."""
    source = template_of(tokenizer, template)
    is_marked = _TAG_BEGIN.search(source) is not None
    closers = tuple(tokenizer.get_added_vocab())
    found: list[tuple[str, list[Span]] | ChatFault] = []
    for messages in chats:
        try:
            found.append(
                _marked_turns(messages, tokenizer, source)
                if is_marked
                else _turns(messages, tokenizer, source, closers=closers)
            )
        except ChatFault as fault:
            found.append(fault)
    texts = [item[0] for item in found if not isinstance(item, ChatFault)]
    encoded = _tokenized(texts, tokenizer)
    return [item if isinstance(item, ChatFault) else _learning(*next(encoded), item[1], tokenizer) for item in found]


def chat_prompt(messages: Sequence[Message], tokenizer: Any, *, template: str | None = None) -> list[int]:
    """The tokens from which the assistant's next turn is generated. Raises as `chat_sequence`."""
    source = template_of(tokenizer, template)
    [text] = _rendered([messages], tokenizer, source, prompt=True)
    return next(_tokenized([text], tokenizer))[0]


def end_of_turn(tokenizer: Any, *, template: str | None = None) -> int | None:
    """The id of the special token with which the template ends the assistant's turns; None where it has none.

    Generation must stop at it too: in many chat models it is not the tokenizer's end-of-text token.
    """
    probe: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    made = chat_sequence(probe, tokenizer, template=template)
    last = [id for id, learnt in zip(made.ids, made.learn, strict=True) if learnt][-1]
    return last if last in tokenizer.get_added_vocab().values() else None


def _message_faults(message: object, number: int) -> Iterator[str]:
    where = f"messages[{number}]"
    if not isinstance(message, dict):
        yield f"{where}: expected {{role, content}}. Found: {_shown(message)}"
        return
    given = {key: value for key, value in message.items() if value is not None}  # Arrow fills missing keys with null
    if {"from", "value"} <= given.keys():
        yield f"{where}: found 'from' and 'value'. Rename them to role and content"
        return
    strange = [key for key in given if key not in ("role", "content")]
    if strange:
        yield f"{where}: '{strange[0]}' is not read, only role and content are. Remove it"
    role, content = given.get("role"), given.get("content")
    if role not in ROLES:
        yield f"{where}.role: {_role_fault(role)}"
    if not isinstance(content, str):
        yield f"{where}.content: " + ("is missing" if content is None else f"is no text. Found: {_shown(content)}")
    elif not content.strip() and role != "system":  # an empty system message says: not the template's own
        yield f"{where}.content: is empty"


def _role_fault(role: object) -> str:
    if role is None:
        return "is missing"
    if role in ("tool", "function", "ipython"):
        return f"'{role}': tool calls are not supported. Remove these messages"
    word = str(role)
    meant = OTHER_NAMES.get(word.lower())
    close = f"Did you mean '{meant}'?" if meant else did_you_mean(word, ROLES)
    return f"'{word}' is not known. Known: {', '.join(ROLES)}. {close}".rstrip()


def _order_faults(roles: Sequence[str], *, ends_with: str) -> Iterator[str]:
    systems = [number for number, role in enumerate(roles) if role == "system"]
    if len(systems) > 1:
        yield f"messages[{systems[1]}].role: a second system message. Only the first message may be one"
    elif systems and systems != [0]:
        yield f"messages[{systems[0]}].role: only the first message may be the system's"
    if ends_with == "assistant" and "assistant" not in roles:
        yield f"no message is the assistant's, so there is nothing to learn. Found roles: {', '.join(roles)}"
    elif roles[-1] != ends_with:
        yield f"messages[{len(roles) - 1}].role: the last message must be the {ends_with}'s. Found: {roles[-1]}"


def _shown(value: object, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _rendered(chats: Sequence[Sequence[Message]], tokenizer: Any, template: str, *, prompt: bool) -> list[str]:
    """The texts that the template makes of several chats, or of several beginnings of one."""
    chosen = {"chat_template": template, "add_generation_prompt": prompt, "tokenize": False}
    try:
        return list(tokenizer.apply_chat_template([list(messages) for messages in chats], **chosen))
    except TemplateSyntaxError as error:
        raise ModelError("chat template", f"line {error.lineno} is not Jinja ({error.message})") from error
    except (TemplateError, TypeError, ValueError) as error:
        raise ChatFault(f"the chat template refuses this chat ({error})", "Change the chat or the template.") from error


def _marked_turns(messages: Sequence[Message], tokenizer: Any, template: str) -> tuple[str, list[Span]]:
    """As `_turns`, of a template that encloses the assistant's turns in `{% generation %}`.

    transformers' own mask (5.23) goes wrong where the tokenizer counts no blank to a token, as GPT-2's: a turn that
    begins with one is lost with every turn after it, and one that ends with it goes on to the end of the chat, the
    user's words with it. Here the tags write marks, and the marks are read.
    """
    marking = _TAG_BEGIN.sub(rf"{{%\1 if true %}}{{% endif %}}{{{{ '{_BEGIN}' }}}}{{% if true \2%}}", template)
    marking = _TAG_END.sub(rf"{{%\1 endif %}}{{{{ '{_END}' }}}}{{% if true %}}{{% endif \2%}}", marking)
    [marked] = _rendered([messages], tokenizer, marking, prompt=False)
    text, spans = "", []
    for piece in re.split(f"({_BEGIN}.*?{_END})", marked, flags=re.DOTALL):
        if piece.startswith(_BEGIN):
            piece = piece.removeprefix(_BEGIN).removesuffix(_END)
            spans.append((len(text), len(text) + len(piece)))
        text += piece
    return text, spans


def _turns(
    messages: Sequence[Message], tokenizer: Any, template: str, *, closers: tuple[str, ...]
) -> tuple[str, list[Span]]:
    """The text of a chat that ends with the assistant, and the characters of each of the assistant's turns."""
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    befores = _rendered([messages[:number] for number in turns], tokenizer, template, prompt=True)
    afters = _rendered([messages[: number + 1] for number in turns], tokenizer, template, prompt=False)
    text = afters[-1]
    spans = []
    for number, before, after in zip(turns, befores, afters, strict=True):
        if not text.startswith(before):
            what = f"the model's chat template does not write messages[{number}] as its prompt for an answer begins it"
            raise ChatFault(what, "Choose another chat template.")
        end = _end_of(messages[number]["content"], text, start=len(before), after=after, closers=closers)
        if end is None:
            what = f"the model's chat template rewrites earlier turns (messages[{number}]) once others follow"
            raise ChatFault(what, "End the chat there, or choose another chat template.")
        spans.append((len(before), end))
    return text, spans


def _end_of(content: str, text: str, *, start: int, after: str, closers: tuple[str, ...]) -> int | None:
    """Where the turn that begins at `start` ends: after its closing token, if it has one; None where it is not whole.

    A later turn may change what surrounds an answer (thoughts are added to the last one only), not the answer.
    """
    if text.startswith(after):
        turn = text[start : len(after)].rstrip()
        return start + len(turn) if turn.endswith(closers) else len(after)
    rest = text[start:].lstrip()
    tail = rest[len(content.strip()) :].lstrip()
    if not rest.startswith(content.strip()) or not tail.startswith(closers):
        return None
    return len(text) - len(tail) + max(len(closer) for closer in closers if tail.startswith(closer))


def _tokenized(texts: list[str], tokenizer: Any) -> Iterator[tuple[list[int], list[Span]]]:
    if not texts:
        return
    encoded = tokenizer(
        texts,
        add_special_tokens=False,  # the template has written them
        truncation=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    yield from zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)


def _learning(ids: list[int], offsets: list[Span], turns: list[Span], tokenizer: Any) -> TokenSequence | ChatFault:
    starts, ends = np.asarray(offsets, dtype=np.int64).reshape(-1, 2).T
    # Byte-level tokenizers trim blanks off a token's characters; one of blanks alone is left with none.
    begins = np.where(starts < ends, starts, ends - characters_of(offsets))
    learn = np.zeros(len(ids), dtype=np.bool_)
    for first, last in turns:
        learn |= (begins < last) & (ends > first)
    learn[:1] = False  # nothing comes before the first token
    if not learn.any():
        return NothingToLearn("nothing to learn: the chat template shows no token of an answer")
    characters = characters_of(offsets)
    characters[np.isin(ids, tokenizer.all_special_ids)] = 0
    return TokenSequence(ids, learn.tolist(), characters.tolist())


def characters_of(offsets: Sequence[Span]) -> Ints:
    """The characters of the text for which each token stands, those left out before it included, shape (tokens,)."""
    ends = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)[:, 1]
    return np.diff(np.maximum.accumulate(ends), prepend=0)
