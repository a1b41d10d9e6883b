"""Few-shot prompting: solved examples before a prompt, for a model that is asked without being fine-tuned.

The one place that knows how examples are written down: `predict` and the baseline few_shot ask alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np

from finetune.data.forms import Encoder
from finetune.data.row_streams import Setting, mapped, progress_bars
from finetune.recipe import Shot

BLANK_LINE = "\n\n"
READ = ("text", "ids", "learn", "prompt")


def few_shot_prompt(examples: Sequence[Shot | tuple[str, str]], prompt: str) -> str:
    """The examples, each a prompt and its completion, and then the prompt to be completed; a blank line between them.

    A completion begins on a line of its own, unless white space parts it from its prompt in every example already, as
    in `Question: ... Answer:` and ` Paris`. Without examples this is the prompt alone.
    """
    pairs = [_pair(example) for example in examples]
    parted = all(asked[-1:].isspace() or answer[:1].isspace() for asked, answer in pairs)
    seam = "" if parted else "\n"
    return "".join(f"{asked}{seam}{answer}{BLANK_LINE}" for asked, answer in pairs) + prompt + seam


def few_shot_answer(text: str, examples: Sequence[Shot | tuple[str, str]]) -> tuple[str, bool]:
    """What was written up to the first blank line, and whether there was one: there the model begins another example.

    Where a completion of the examples has a blank line in itself, an answer may have one too, and all is kept.
    """
    if not examples or any(BLANK_LINE in _pair(example)[1].strip() for example in examples):
        return text, False
    answer, ended, _ = text.lstrip("\n").partition(BLANK_LINE)
    return answer, bool(ended)


def few_shot_rows(
    rows: datasets.Dataset,
    documents: datasets.Dataset,
    examples: Sequence[tuple[str, str]],
    *,
    encoder: Encoder,
    room: int,
) -> datasets.Dataset:
    """`rows` of prompts and completions, encoded for evaluation by data/sequences.py, with examples before each prompt.

    `documents` are those of the rows, with their column text. Before each prompt stand as many of the first examples
    as leave place, in `room` tokens, for all of it, and after it for the learnt tokens and for all that may be written.
    The learnt tokens, those of the completion, are the same as before.
    """
    costs = np.array([_tokens(encoder, few_shot_prompt(examples[:count], "")) for count in range(len(examples) + 1)])

    def with_examples(
        texts: list[str], ids: list[list[list[int]]], learn: list[list[list[bool]]], prompts: list[list[int]]
    ) -> dict[str, list[object]]:
        changed: dict[str, list[object]] = {"ids": [], "learn": [], "prompt": []}
        for text, [sequence], [learnt], prompt in zip(texts, ids, learn, prompts, strict=True):
            completion = [token for token, is_learnt in zip(sequence, learnt, strict=True) if is_learnt]
            most = room - max(len(completion), encoder.settings.max_new_tokens)
            count = int(np.searchsorted(costs[1:], most - len(prompt), side="right"))
            if count:
                prompt = _begun(encoder, few_shot_prompt(examples[:count], text), most=most)
                sequence = [*prompt, *completion]
                learnt = [False] * len(prompt) + [True] * len(completion)
            changed["ids"].append([sequence])
            changed["learn"].append([learnt])
            changed["prompt"].append(prompt)
        return changed

    with progress_bars(False):
        return mapped(
            datasets.concatenate_datasets([rows, documents.select_columns(["text"])], axis=1),
            with_examples,
            name="few-shot",
            version=(),
            reads=READ,
            features=rows.features,
            setting=Setting(examples=0, num_proc=1, cached=False),
        )


def _pair(example: Shot | tuple[str, str]) -> tuple[str, str]:
    return (example.prompt, example.completion) if isinstance(example, Shot) else example


def _tokens(encoder: Encoder, text: str) -> int:
    return len(encoder.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _begun(encoder: Encoder, text: str, *, most: int) -> list[int]:
    """The tokens of a prompt; those of the parts do not quite add up, and what is too much goes from the left."""
    ids = encoder.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [*encoder.opening, *ids[max(0, len(ids) + len(encoder.opening) - most) :]]
