"""Augmentation: changed copies of the training documents, by deleting, swapping, inserting and replacing words.

The four operations are those of EDA (Wei and Zou 2019, arXiv 1901.11196). Whether they help is to be measured, not
assumed: benchmarks/augmentation_effect.py. It takes the training split and nothing else, after splitting; a copy stays
in its original's family and group, and what is drawn depends on (seed, id, number of the copy) alone.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Value, concatenate_datasets
from numpy.typing import NDArray

from finetune.data.lexicon import UNSPACED_RUN, WORDS, Lexicon, load_lexicon
from finetune.data.row_streams import progress_bars
from finetune.data.store import cache_folder, fingerprint
from finetune.data.text_steps import visible
from finetune.errors import DataError, EnvironmentFault
from finetune.recipe import Augmentation

AUGMENT_VERSION = 1  # part of the fingerprint: raise it when a copy's text changes
LEAST_COVERAGE = 0.01
EXAMPLES_SHOWN = 3
ROWS_AT_ONCE = 200
# `words` of the original and those of them with a synonym, then the words of the copy that each operation touched.
COUNTS = ("words", "known", "delete", "swap", "insert", "synonym")
OPERATIONS = COUNTS[2:]


@dataclass(frozen=True)
class AugmentReport:
    """What augmentation did, for data.json.

    `words_changed` counts the words of all copies made, by operation; `words` are the words of their originals, once
    for each copy. `coverage` is the share of the words of the training split that have a synonym, null without a
    lexicon. `examples` have origin, before, after, shortened.
    """

    originals: int
    copies: int
    unchanged_copies_left_out: int
    words: int
    words_changed: dict[str, int]
    lexicon: str | None
    lexicon_words: int
    coverage: float | None
    examples: list[dict[str, str]]
    notes: list[str]
    warnings: list[str]


@dataclass(frozen=True)
class Augmented:
    """`rows` are the originals in their order, then the copies in the order of their originals; one family a row."""

    rows: Dataset
    families: NDArray[np.int64]
    report: AugmentReport


def augment(
    train: Dataset,
    families: NDArray[np.int64],
    *,
    settings: Augmentation,
    seed: int,
    base: Path,
    num_proc: int | None = None,
    progress: bool = False,
) -> Augmented:
    """The training rows and `settings.copies` changed copies of each.

    A copy has the id `ID#copy1`, the origin `ORIGIN (copy 1)` and every other column of its original. One that equals
    its original or an earlier copy of it is left out and counted. `families`: shape (rows,), the family of each row.
    Raises DataError for a faulty lexicon, or when no copy differs from its original; EnvironmentFault.
    """
    lexicon = load_lexicon(settings.lexicon, base=base) if settings.lexicon is not None else Lexicon()
    drawn = _drawn(train, settings=settings, seed=seed, lexicon=lexicon, num_proc=num_proc, progress=progress)
    counts, made = _counted(drawn)
    if not len(made):
        raise DataError(
            "augmentation",
            f"none of the {len(drawn):,} copies differs from its original",
            "Raise the shares, or give a lexicon in the language of the texts.",
        )
    copies = drawn.select_columns(train.column_names).select(made)
    return Augmented(
        rows=concatenate_datasets([train, copies]),
        families=np.concatenate([families, families[made // settings.copies]]),
        report=_report(train, copies, counts, made, settings=settings, lexicon=lexicon),
    )


def changed_copy(
    text: str, *, settings: Augmentation, lexicon: Lexicon, draw: random.Random
) -> tuple[str, dict[str, int]]:
    """A changed copy of a text, and the number of words that each operation touched.

    In this order: words become synonyms, words swap places, words are deleted (never the last one), and synonyms of
    words of the original are inserted. A share of n words is rounded up or down by chance, so that its mean is exact
    for short texts too. What stands between the words stays.
    """
    words, gaps = split_words(text, lexicon)
    count = len(words)
    original = [word for word in words if lexicon.of(word)] if settings.insert else []
    touched = {
        "synonym": _replace(words, _drawn_count(settings.synonym * count, draw), lexicon, draw),
        "swap": _swap(words, _drawn_count(settings.swap * count / 2, draw), draw),
        "delete": _delete(words, gaps, _drawn_count(settings.delete * count, draw), draw),
        "insert": _insert(words, gaps, _drawn_count(settings.insert * count, draw), original, lexicon, draw),
    }
    return _joined(words, gaps), touched


def split_words(text: str, lexicon: Lexicon) -> tuple[list[str], list[str]]:
    """The words of a text, and the gaps before, between and after them: one more than words.

    Chinese and Japanese runs are cut into the longest words that the lexicon knows, from the left, else characters.
    """
    words: list[str] = []
    gaps: list[str] = []
    end = 0
    for found in WORDS.finditer(text):
        run = found[0]
        parts = _unspaced_words(run, lexicon) if UNSPACED_RUN.match(run) else [run]
        gaps += [text[end : found.start()], *[""] * (len(parts) - 1)]
        words += parts
        end = found.end()
    return words, [*gaps, text[end:]]


def _unspaced_words(run: str, lexicon: Lexicon) -> list[str]:
    words, start = [], 0
    while start < len(run):
        longest = min(lexicon.longest_unspaced, len(run) - start)
        known = (size for size in range(longest, 1, -1) if run[start : start + size] in lexicon.unspaced_words)
        size = next(known, 1)
        words.append(run[start : start + size])
        start += size
    return words


def _joined(words: list[str], gaps: list[str]) -> str:
    """The text; two words that would run into one get a space, unless they are written without."""
    parts = [gaps[0]]
    for word, gap, following in zip(words, gaps[1:], [*words, ""][1:], strict=True):
        runs_on = not gap and following and not (UNSPACED_RUN.match(word[-1]) or UNSPACED_RUN.match(following))
        parts += [word, " " if runs_on else gap]
    return "".join(parts)


def _drawn_count(mean: float, draw: random.Random) -> int:
    return int(mean + draw.random())


def _replace(words: list[str], count: int, lexicon: Lexicon, draw: random.Random) -> int:
    if not count:
        return 0
    places = [place for place, word in enumerate(words) if lexicon.of(word)]
    chosen = draw.sample(places, min(count, len(places)))
    for place in chosen:
        words[place] = _synonym(words[place], lexicon, draw)
    return len(chosen)


def _synonym(word: str, lexicon: Lexicon, draw: random.Random) -> str:
    other = draw.choice(lexicon.of(word))
    return other[0].upper() + other[1:] if word[0].isupper() else other


def _swap(words: list[str], pairs: int, draw: random.Random) -> int:
    """Exchanges pairs of words, each word at most once; two equal words count as nothing done."""
    pairs = min(pairs, len(words) // 2)
    chosen = draw.sample(range(len(words)), 2 * pairs)
    moved = 0
    for one, other in zip(chosen[:pairs], chosen[pairs:], strict=True):
        moved += 2 * (words[one] != words[other])
        words[one], words[other] = words[other], words[one]
    return moved


def _delete(words: list[str], gaps: list[str], count: int, draw: random.Random) -> int:
    """Takes words out with the space that belonged to them; their punctuation stays, and so does one word."""
    count = max(0, min(count, len(words) - 1))
    gone = set(draw.sample(range(len(words)), count))
    kept: list[str] = []
    around = [gaps[0]]
    for place, word in enumerate(words):
        if place in gone:
            last = place == len(words) - 1
            around[-1] = _closed_gap(around[-1], gaps[place + 1], first=not kept, last=last)
        else:
            kept.append(word)
            around.append(gaps[place + 1])
    words[:], gaps[:] = kept, around
    return count


def _closed_gap(left: str, right: str, *, first: bool, last: bool) -> str:
    """The two gaps around a deleted word as one: of two spaces one stays, and none before a comma or at an end."""
    if (first and not left) or (left.endswith("\n") and right[:1].isspace()):
        return left + right.lstrip(" ")
    if (last and not right) or right[:1].isspace() or _CLOSING_SIGN.match(right):
        return left.rstrip(" ") + right
    return left + right


_CLOSING_SIGN = re.compile(r"[,.;:!?…)\]}%’”»]")


def _insert(
    words: list[str], gaps: list[str], count: int, original: list[str], lexicon: Lexicon, draw: random.Random
) -> int:
    """Puts synonyms of words of the original at random places, before a word or after the last one."""
    if not original:
        return 0
    added: dict[int, list[str]] = {}
    for _ in range(count):
        synonym = draw.choice(lexicon.of(draw.choice(original)))
        added.setdefault(draw.randint(0, len(words)), []).append(synonym)
    longer, around = [], [gaps[0]]
    for place, word in enumerate(words):
        before = added.get(place, [])
        longer += [*before, word]
        around += [*[""] * len(before), gaps[place + 1]]
    after = added.get(len(words), [])
    words[:], gaps[:] = [*longer, *after], [*around[:-1], *[""] * len(after), around[-1]]
    return count


def _drawn(
    train: Dataset, *, settings: Augmentation, seed: int, lexicon: Lexicon, num_proc: int | None, progress: bool
) -> Dataset:
    """`copies` rows for each row of train, in its order, with COUNTS; the text of a copy to leave out is null.

    They are kept in the cache, by a name made of everything they are made from, and reused.
    """
    name = fingerprint("augment", AUGMENT_VERSION, train._fingerprint, settings.model_dump(), seed, lexicon.sha256)
    folder = cache_folder()
    with progress_bars(progress):
        try:
            return (
                train.with_format("arrow")
                .map(
                    partial(_copies, settings=settings, seed=seed, lexicon=lexicon),
                    batched=True,
                    batch_size=ROWS_AT_ONCE,
                    features=Features(dict(train.features) | {count: Value("int32") for count in COUNTS}),
                    cache_file_name=str(folder / f"augment-{name}.arrow"),
                    load_from_cache_file=True,
                    new_fingerprint=name,
                    num_proc=num_proc,
                    desc="augmenting train",
                )
                .with_format(None)
            )
        except OSError as error:
            what = f"the copies cannot be written ({error.strerror or error})"
            raise EnvironmentFault(str(folder), what, "Free some space, or set HF_DATASETS_CACHE.") from error


def _copies(rows: pa.Table, *, settings: Augmentation, seed: int, lexicon: Lexicon) -> pa.Table:
    made: dict[str, list[object]] = {name: [] for name in ("id", "text", "origin", *COUNTS)}
    for row_id, text, origin in zip(*(rows[name].to_pylist() for name in ("id", "text", "origin")), strict=True):
        words, _ = split_words(text or "", lexicon)
        counts = {"words": len(words), "known": sum(bool(lexicon.of(word)) for word in words)}
        seen = {text or ""}
        for number in range(1, settings.copies + 1):
            draw = _generator(seed, row_id, number)
            copy, touched = changed_copy(text or "", settings=settings, lexicon=lexicon, draw=draw)
            made["id"].append(f"{row_id}#copy{number}")
            made["text"].append(None if copy in seen else copy)
            made["origin"].append(f"{origin} (copy {number})")
            for name, count in (counts | touched).items():
                made[name].append(count)
            seen.add(copy)
    kept = rows.drop_columns(["id", "text", "origin"]).take(np.repeat(np.arange(len(rows)), settings.copies))
    for name, values in made.items():
        kind = rows.schema.field(name).type if name in rows.schema.names else pa.int32()
        kept = kept.append_column(name, pa.array(values, type=kind))
    return kept.select([*rows.schema.names, *COUNTS])


def _generator(seed: int, row_id: str, number: int) -> random.Random:
    # A key of its own for every copy: neither the order of the rows nor their number can change what is drawn.
    key = hashlib.sha256(f"{seed}\x1f{number}\x1f{row_id}".encode("utf-8", "surrogatepass")).digest()
    return random.Random(int.from_bytes(key[:16]))


def _counted(drawn: Dataset) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]:
    """COUNTS of every copy drawn, and the places of those that differ."""
    batches = drawn.select_columns(["text", *COUNTS]).with_format("arrow").iter(batch_size=ROWS_AT_ONCE)
    parts: dict[str, list[NDArray[np.int64]]] = {name: [np.empty(0, np.int64)] for name in COUNTS}
    made = [np.empty(0, np.bool_)]
    for batch in batches:
        made.append(batch["text"].is_valid().to_numpy())
        for name in COUNTS:
            parts[name].append(batch[name].to_numpy())
    return {name: np.concatenate(part) for name, part in parts.items()}, np.flatnonzero(np.concatenate(made))


def _report(
    train: Dataset,
    copies: Dataset,
    counts: dict[str, NDArray[np.int64]],
    made: NDArray[np.int64],
    *,
    settings: Augmentation,
    lexicon: Lexicon,
) -> AugmentReport:
    coverage = float(counts["known"].sum() / max(1, counts["words"].sum())) if settings.lexicon is not None else None
    left_out = settings.copies * len(train) - len(made)
    warnings = []
    if coverage is not None and coverage < LEAST_COVERAGE:
        warnings.append(
            f"augmentation: {lexicon.name} has synonyms for {coverage:.2%} of the words of train; "
            "is it in the language of the texts?"
        )
    notes = [*lexicon.notes]
    if coverage is not None and coverage < settings.synonym:
        notes.append(
            f"augmentation: {coverage:.1%} of the words have a synonym, fewer than the share of "
            f"{settings.synonym:g} that was to be replaced"
        )
    if left_out:
        total = settings.copies * len(train)
        notes.append(f"augmentation: {left_out:,} of {total:,} copies came out unchanged and were left out")
    examples = []
    for place in range(min(EXAMPLES_SHOWN, len(copies))):
        before, after = train[int(made[place]) // settings.copies], copies[place]
        pair = {"before": visible(before["text"]), "after": visible(after["text"])}
        examples.append({"origin": str(after["origin"]), **pair})
    return AugmentReport(
        originals=len(train),
        copies=len(made),
        unchanged_copies_left_out=left_out,
        words=int(counts["words"][made].sum()),
        words_changed={name: int(counts[name][made].sum()) for name in OPERATIONS},
        lexicon=settings.lexicon,
        lexicon_words=len(lexicon.synonyms),
        coverage=coverage,
        examples=examples,
        notes=notes,
        warnings=warnings,
    )
