"""Quatrains of five characters a verse: cut out of longer poems for training, and counted in what a model has written.

`quatrain` is the cleaning step of chinese-poems.yaml. To count form errors of a finished run:

    python recipes/poem_form.py RUN
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

VERSES = 4
CHARACTERS = 5
VERSE = re.compile(r"([一-鿿㐀-䶿]+)([，。？！；])")


def quatrain(text: str) -> str:
    """The first four verses of a poem in verses of five characters; nothing of any other poem."""
    verses = VERSE.findall("".join(text.split()))
    if len(verses) < VERSES or {len(verse) for verse, _ in verses} != {CHARACTERS}:
        return ""
    return "".join(verse + sign for verse, sign in verses[:VERSES])


def form_error(poem: str) -> str | None:
    """What is wrong with the form of a whole poem; None for a quatrain."""
    verses = VERSE.findall(poem)
    if "".join(verse + sign for verse, sign in verses) != poem:
        return "something that is no verse"
    if len(verses) != VERSES:
        return f"{len(verses)} verses"
    wrong = next((verse for verse, _ in verses if len(verse) != CHARACTERS), None)
    return None if wrong is None else f"a verse of {len(wrong)} characters"


def main(run: str) -> None:
    """Form errors of the test poems of a run: each first verse as it was given, with what was written after it."""
    from finetune.data.prepare import prepare
    from finetune.progress import SILENT
    from finetune.recipe_file import load_recipe
    from finetune.runs import Run, read_table

    folder = Run(run)
    written = read_table(folder.predictions("test"))
    rows = prepare(load_recipe(Path(run) / "recipe.yaml"), progress=SILENT).splits["test"]
    poems = [
        text.removesuffix(reference) + prediction
        for text, reference, prediction in zip(rows["text"], written["reference"], written["prediction"], strict=True)
        if prediction is not None
    ]
    errors = Counter(error for error in map(form_error, poems) if error)
    print(f"{sum(errors.values())} of {len(poems)} poems are no quatrains of five characters")
    for error, count in errors.most_common():
        print(f"{count:6}  {error}")


if __name__ == "__main__":
    main(sys.argv[1])
