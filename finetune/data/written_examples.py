"""Examples of text to write: which columns of a row are what is read and what is written, whatever their form.

    form      columns of the recipe     text                                        target
    text      text                      the text                                    null
    pairs     prompt, completion        the prompt, possibly empty                  the completion
    chat      messages                  JSON of the messages before the last one    the last message, the assistant's
    seq2seq   source, target            the source                                  the target

A form of None is that of labelled documents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from finetune.data.chats import Message, check_messages
from finetune.recipe_data import Form

# The keys of data.columns for text and target.
KEYS: dict[Form, tuple[str, str | None]] = {
    "text": ("text", None),
    "pairs": ("prompt", "completion"),
    "chat": ("messages", None),
    "seq2seq": ("source", "target"),
}
MESSAGES = re.compile(r"\s*\[\s*[{\]]")  # how the JSON of a chat begins


def divided_chat(value: object, *, answered: bool = True) -> tuple[list[Message], str | None]:
    """The messages of a chat before its last one, and that one's content; without an answer all, and None.

    To be answered, words that are no list of messages are the only message, the user's. Raises ChatFault for what is no
    chat, and for one that the wrong side ends.
    """
    if not answered and isinstance(value, str) and not MESSAGES.match(value):
        value = [{"role": "user", "content": value}]
    messages = check_messages(value, ends_with="assistant" if answered else "user")
    return (messages[:-1], messages[-1]["content"]) if answered else (messages, None)


def chat_text(messages: list[Message]) -> str:
    """The column `text` of a chat."""
    return json.dumps(messages, ensure_ascii=False)


def chat_messages(text: str, target: str | None = None) -> list[Message]:
    """The messages of a row, from its columns; the last one is the target where there is one."""
    messages: list[Message] = json.loads(text)
    return messages if target is None else [*messages, {"role": "assistant", "content": target}]


def in_messages(rewrite: Callable[[str], str], text: str) -> str:
    """The column `text` of a chat after `rewrite` has gone over the content of every message."""
    messages = chat_messages(text)
    changed: list[Message] = [{"role": each["role"], "content": rewrite(each["content"])} for each in messages]
    return text if changed == messages else chat_text(changed)


def asked_text(text: str | None, *, form: Form | None) -> str:
    """What is asked, without what frames it: of a chat the user's own words, of any other form the text."""
    if form == "chat" and text:
        return "\n".join(message["content"] for message in chat_messages(text) if message["role"] == "user")
    return text or ""


def whole_text(text: str | None, target: str | None, *, form: Form | None) -> str:
    """What is asked and what is written, one below the other; where nothing is written apart, the text alone."""
    asked = asked_text(text, form=form)
    return asked if target is None else f"{asked}\n{target}"
