"""Only the assistant's turns are learnt, whatever the template looks like, and no chat has a second begin token."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from finetune.data.chats import (
    DEFAULT_CHAT_TEMPLATE,
    ChatFault,
    Message,
    chat_prompt,
    chat_sequence,
    chat_sequences,
    check_messages,
    end_of_turn,
    template_of,
)
from finetune.errors import ModelError

SPECIALS = [
    *("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("[INST]", "[/INST]"),
]
TEXTS = ["hello world, how are you today?\n\nUser:\nAssistant:\nSystem: fine thanks 天气很好"] * 3

CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
MARKED = CHATML.replace(
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}",
    "{{- '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}"
    "{% endif %}{{ '\\n' }}",
)
LLAMA_3 = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""
MISTRAL = """\
{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] + '\\n\\n' %}
{%- set loop_messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- set loop_messages = messages %}{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate user/assistant') }}{%- endif %}
{%- if message['role'] == 'user' %}
{{- '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}
{%- else %}{{- ' ' + message['content'] + eos_token }}{%- endif %}
{%- endfor %}"""
# Thoughts stay in the last answer alone, and an empty thought is put before an answer that has none.
THINKING = """\
{%- for message in messages %}
{%- set content = message['content'] %}
{%- if message['role'] == 'assistant' %}{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- if loop.last %}
{%- set content = '<think>\\n' + message['content'].split('</think>')[0].split('<think>')[-1].strip()
    * ('</think>' in message['content']) + '\\n</think>\\n\\n' + content %}{%- endif %}{%- endif %}
{{- '<|im_start|>' + message['role'] + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
UNCLOSED = "{% for m in messages %}{{ m.role }}: {{ m.content + '\n' }}{% endfor %}" + (
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def tokenizer(kind: str = "bytes", *, begins: bool = False, template: str | None = None) -> PreTrainedTokenizerFast:
    """A BPE of a few hundred tokens: on bytes as GPT-2's, or with blanks as marks as Llama's; `begins` puts a <s>."""
    backend = Tokenizer(models.BPE(byte_fallback=kind == "marks"))
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bytes" else [f"<0x{n:02X}>" for n in range(256)]
    if kind == "bytes":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    special = [*SPECIALS, *(alphabet if kind == "marks" else [])]
    trainer = trainers.BpeTrainer(
        vocab_size=620,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=alphabet if kind == "bytes" else [],
    )
    backend.train_from_iterator(TEXTS, trainer)
    if begins:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    elif kind == "bytes":
        backend.post_processor = processors.ByteLevel(trim_offsets=True)  # as GPT-2's: a blank belongs to no token
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=SPECIALS[3:],
    )  # fmt: skip
    made.chat_template = template
    return made


BYTES, MARKS = tokenizer(), tokenizer("marks")
CHAT: list[Message] = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "hello, how are you?"},
    {"role": "assistant", "content": "fine thanks"},
    {"role": "user", "content": "天气"},
    {"role": "assistant", "content": "很好 today"},
]
TEMPLATES = {
    "plain": (None, "</s>"), "chatml": (CHATML, "<|im_end|>"), "marked": (MARKED, "<|im_end|>"),
    "llama-3": (LLAMA_3, "<|eot_id|>"), "mistral": (MISTRAL, "</s>"),
}  # fmt: skip


def learnt_texts(tokens: PreTrainedTokenizerFast, chat: list[Message], template: str | None) -> list[str]:
    """The texts of the runs of learnt tokens."""
    made = chat_sequence(chat, tokens, template=template)
    assert len(made.ids) == len(made.learn) == len(made.characters)
    runs: list[list[int]] = []
    for number, (id, learnt) in enumerate(zip(made.ids, made.learn, strict=True)):
        if learnt and not (number and made.learn[number - 1]):
            runs.append([])
        if learnt:
            runs[-1].append(id)
    return [tokens.decode(run) for run in runs]


@pytest.mark.parametrize("tokens", [BYTES, MARKS], ids=["bytes", "marks"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_only_the_assistants_turns_are_learnt(name: str, tokens: PreTrainedTokenizerFast) -> None:
    template, closer = TEMPLATES[name]
    made = chat_sequence(CHAT, tokens, template=template)
    if tokens is BYTES:
        lead = " " if name == "mistral" else ""
        assert learnt_texts(tokens, CHAT, template) == [f"{lead}fine thanks{closer}", f"{lead}很好 today{closer}"]
    assert sum(made.learn) == len(made.ids) - len([learnt for learnt in made.learn if not learnt])
    # The whole chat is what transformers makes of it, and ends as it does.
    source = template_of(tokens, template)
    assert made.ids == tokens.apply_chat_template(CHAT, chat_template=source, return_dict=False)
    text = tokens.apply_chat_template(CHAT, chat_template=source, tokenize=False)
    blanks = sum(name == "mistral" and turn["role"] == "assistant" for turn in CHAT)
    learnt = sum(count for count, is_learnt in zip(made.characters, made.learn, strict=True) if is_learnt)
    assert learnt == len("fine thanks很好 today") + blanks
    assert sum(made.characters) <= len(text)
    # Each turn is learnt after exactly what its prompt gives the model.
    for number in (2, 4):
        prompt = chat_prompt(CHAT[:number], tokens, template=template)
        assert made.ids[: len(prompt)] == prompt
        assert not made.learn[len(prompt) - 1]
        assert made.learn[len(prompt)]
    assert tokens.convert_ids_to_tokens(end_of_turn(tokens, template=template)) == closer


@pytest.mark.parametrize(
    "tags", ["{%- generation -%}", "{% generation %}", "{% generation -%}\n ", "\n {% generation %}\n"]
)
def test_marks_and_prefixes_agree(tags: str) -> None:
    """Whatever the tags do to the blanks around them; and with transformers' own mask, where no blank is at an edge."""
    assert chat_sequence(CHAT, BYTES, template=MARKED) == chat_sequence(CHAT, BYTES, template=CHATML)
    template = MARKED.replace("{% generation %}", tags).replace("{% endgeneration %}", tags.replace("gen", "endgen"))
    made = chat_sequence(CHAT, BYTES, template=template)
    theirs = BYTES.apply_chat_template(CHAT, chat_template=template, return_assistant_tokens_mask=True)
    assert (made.ids, made.learn) == (theirs["input_ids"], [bool(learnt) for learnt in theirs["assistant_masks"]])


def test_marked_answers_with_blanks_at_their_edges_are_learnt_and_nothing_else() -> None:
    chat: list[Message] = [CHAT[1], {"role": "assistant", "content": " fine"}, CHAT[3], CHAT[4]]
    assert learnt_texts(BYTES, chat, MARKED) == [" fine<|im_end|>", "很好 today<|im_end|>"]
    blanks_after = MARKED.replace("{% endgeneration %}", "{{ '  ' }}{% endgeneration %}")
    assert learnt_texts(BYTES, CHAT, blanks_after) == ["fine thanks<|im_end|>  ", "很好 today<|im_end|>  "]


words = st.text(st.sampled_from("hello \n天气很.<|>"), min_size=1, max_size=12).filter(lambda text: text.strip())


@settings(max_examples=40)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=4), st.sampled_from([CHATML, LLAMA_3, MISTRAL, None]))
def test_any_content_is_learnt_whole(turns: list[tuple[str, str]], template: str | None) -> None:
    chat: list[Message] = []
    for question, answer in turns:
        chat += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    found = learnt_texts(BYTES, chat, template)
    assert len(found) == len(turns)
    for (_, answer), text in zip(turns, found, strict=True):
        # A blank at its beginning may share a token with the line end before it.
        assert answer.strip() in text
        assert not {"user", "User", "assistant", "Assistant"} & set(text.split())
    if template is CHATML:
        assert chat_sequence(chat, BYTES, template=CHATML) == chat_sequence(chat, BYTES, template=MARKED)


@pytest.mark.parametrize("template", [None, LLAMA_3, MISTRAL])
def test_never_two_begin_tokens(template: str | None) -> None:
    begins = tokenizer(begins=True)
    assert begins("hello")["input_ids"][0] == begins.bos_token_id
    for ids in (chat_sequence(CHAT, begins, template=template).ids, chat_prompt(CHAT[:2], begins, template=template)):
        assert ids.count(begins.bos_token_id) == 1
        assert ids[0] == begins.bos_token_id


def test_the_default_template_reads_plainly() -> None:
    text = "System:\nbe kind\nUser:\nhello, how are you?\nAssistant:\nfine thanks</s>\nUser:\n天气\nAssistant:\n"
    assert BYTES.decode(chat_prompt(CHAT[:4], BYTES)) == text
    # Saved with the tokenizer, it is what plain transformers uses.
    saved = tokenizer(template=template_of(BYTES))
    assert saved.apply_chat_template(CHAT, return_dict=False) == chat_sequence(CHAT, BYTES).ids
    assert template_of(tokenizer(template=CHATML)) == CHATML
    assert template_of(BYTES) == DEFAULT_CHAT_TEMPLATE


def test_one_template_of_several() -> None:
    several: Any = tokenizer()
    several.chat_template = {"default": CHATML, "other": LLAMA_3}
    assert (template_of(several), template_of(several, "other")) == (CHATML, LLAMA_3)
    several.chat_template = {"one": CHATML, "two": LLAMA_3}
    with pytest.raises(ModelError, match="none called default"):
        template_of(several)


# ---- templates that change what was written


def test_an_answer_that_stays_itself_is_learnt_although_its_surroundings_change() -> None:
    assert learnt_texts(BYTES, CHAT, THINKING) == [
        "fine thanks<|im_end|>",
        "<think>\n\n</think>\n\n很好 today<|im_end|>",
    ]


def test_a_template_that_drops_earlier_thoughts_is_refused() -> None:
    chat = [dict(message) for message in CHAT]
    chat[2]["content"] = "<think>\nhm\n</think>\n\nfine thanks"
    with pytest.raises(ChatFault, match=r"rewrites earlier turns \(messages\[2\]\) once others follow"):
        chat_sequence(chat, BYTES, template=THINKING)  # type: ignore[arg-type]
    ends_there = chat[:3]
    [text] = learnt_texts(BYTES, ends_there, THINKING)  # type: ignore[arg-type]
    assert text == "<think>\nhm\n</think>\n\nfine thanks<|im_end|>"


def test_a_prompt_that_the_chat_does_not_contain_is_refused() -> None:
    opens = CHATML.replace("assistant\\n", "assistant\\n<think>\\n")
    with pytest.raises(ChatFault, match=r"does not write messages\[2\] as its prompt for an answer begins it"):
        chat_sequence(CHAT, BYTES, template=opens)


def test_a_turn_without_a_closing_token_ends_with_its_line() -> None:
    assert learnt_texts(BYTES, CHAT, UNCLOSED) == [" fine thanks\n", " 很好 today\n"]
    assert end_of_turn(BYTES, template=UNCLOSED) is None


def test_what_a_template_refuses_is_said_of_its_chat_alone() -> None:
    wrong: list[Message] = [CHAT[1], CHAT[1], CHAT[2]]
    good, bad, again = chat_sequences([CHAT, wrong, CHAT], BYTES, template=MISTRAL)
    assert good == again == chat_sequence(CHAT, BYTES, template=MISTRAL)
    assert isinstance(bad, ChatFault)
    assert "the chat template refuses this chat (roles must alternate user/assistant)" in str(bad)
    assert isinstance(chat_sequences([wrong], BYTES, template=MARKED + "{{ raise_exception('no') }}")[0], ChatFault)
    with pytest.raises(ModelError, match="chat template: line 1 is not Jinja"):
        chat_sequences([CHAT], BYTES, template="{% if")


def test_a_template_that_shows_no_answer_is_refused() -> None:
    with pytest.raises(ChatFault, match="nothing to learn: the chat template shows no token"):
        chat_sequence(CHAT, BYTES, template="{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")


# ---- messages


def test_messages_lose_only_empty_keys() -> None:
    given_ = [{**message, "name": None} for message in CHAT]
    assert check_messages(given_) == CHAT == check_messages(tuple(CHAT))
    assert check_messages('[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]')[1] == {
        "role": "assistant",
        "content": "b",
    }
    assert check_messages(CHAT[:4], ends_with="user") == CHAT[:4]
    assert check_messages([{"role": "system", "content": ""}, *CHAT[1:]])[0]["content"] == ""


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("hello", "not a chat. Found: 'hello'. Write a list of {role, content}."),
        ([], "not a chat. Found: []"),
        ({"role": "user"}, "not a chat. Found: {'role': 'user'}"),
        (None, "not a chat. Found: None"),
        (["hello"], "messages[0]: expected {role, content}. Found: 'hello'"),
        ([CHAT[1], {"role": "assistnt", "content": "x"}], "messages[1].role: 'assistnt' is not known."),
        ([CHAT[1], {"role": "assistnt", "content": "x"}], "Did you mean 'assistant'?"),
        ([CHAT[1], {"role": "gpt", "content": "x"}], "Did you mean 'assistant'?"),
        ([CHAT[1], {"role": "tool", "content": "x"}], "messages[1].role: 'tool': tool calls are not supported"),
        ([CHAT[1], {"content": "x"}], "messages[1].role: is missing"),
        ([CHAT[1], {"role": "assistant"}], "messages[1].content: is missing"),
        ([CHAT[1], {"role": "assistant", "content": " \n"}], "messages[1].content: is empty"),
        ([CHAT[1], {"role": "assistant", "content": ["x"]}], "messages[1].content: is no text. Found: ['x']"),
        ([{"from": "human", "value": "x"}], "messages[0]: found 'from' and 'value'. Rename them"),
        ([CHAT[1], {**CHAT[2], "tool_calls": [{}]}], "messages[1]: 'tool_calls' is not read"),
        ([CHAT[0], CHAT[0], *CHAT[1:]], "messages[1].role: a second system message"),
        ([CHAT[1], CHAT[0], CHAT[2]], "messages[1].role: only the first message may be the system's"),
        (CHAT[:2], "no message is the assistant's, so there is nothing to learn. Found roles: system, user"),
        (CHAT[:4], "messages[3].role: the last message must be the assistant's. Found: user"),
        ([{}] * 5, "messages[1].role: is missing; and 7 more"),
    ],
)
def test_what_is_wrong_with_messages_is_said(value: object, fault: str) -> None:
    with pytest.raises(ChatFault) as raised:
        check_messages(value)
    assert fault in str(raised.value)


def test_a_prompt_must_end_with_the_user() -> None:
    with pytest.raises(ChatFault, match=r"messages\[4\].role: the last message must be the user's. Found: assistant"):
        check_messages(CHAT, ends_with="user")
