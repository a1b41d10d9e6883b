"""Which texts are nearly the same text: families of rows that share most words and word pairs, Chinese as English.

MinHash signatures propose pairs, the exact Jaccard similarity of the two texts decides, and a family is everybody who
is that similar to its first member: families are not chained, so no member is a stranger to its representative.
docs/duplicates.md tells the method, what it finds and what it costs.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import datasets
import datasketch
import numpy as np
import xxhash
from numpy.typing import NDArray

from finetune.data.duplicates import exact_families, folded_text
from finetune.data.row_streams import values
from finetune.data.store import cache_folder, code_version, fingerprint, replacing
from finetune.errors import EnvironmentFault
from finetune.progress import SILENT, Progress

HASHES_IN_SIGNATURE = 128
SHORTEST_SHINGLES = 7  # four words and their three pairs; a text of fewer is compared exactly only
CHANCE_OF_A_SHARED_BUCKET = 0.95  # for two texts that are just as similar as asked; more for others
# What one row may cost in a corpus of one template, where a bucket holds thousands that are not similar enough.
MOST_ENTRIES_READ = 2_048  # of its buckets, the smallest first: they tell most
MOST_TEXTS_COMPARED = 16  # those that share most buckets
ROWS_IN_A_BATCH = 250  # a row may hold a whole book
SHINGLES_SIGNED_AT_ONCE = 8_192  # each takes 128 numbers while it is signed
SHINGLES_REMEMBERED = 4_000_000  # 32 MB of recent texts' hashes

# Scripts written without spaces between words: here a character is a token. Thai to Burmese, Khmer, the Japanese
# iteration marks, kana, bopomofo, and Han with its extensions. Hangul has spaces.
_UNSPACED = "\u0e00-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30fa\u30fc-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_UNSPACED += "\U00020000-\U0003ffff"
# Vowel signs and points that belong to a word although \w leaves them out: Latin, Hebrew, Arabic and Indic ones.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0900-\u0963\u0966-\u0dff"
_TOKEN = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+(?:[{_MARKS}]+[^\\W{_UNSPACED}]*)*")

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Families:
    """Who belongs together; each array has shape (rows,).

    `family` is the index of the row's representative, `exact` that of the first row with the same folded text.
    `similarity` is the Jaccard similarity to the representative, 1 for a representative. `short` counts the rows with
    too few words to be compared other than exactly.
    """

    family: Ints
    exact: Ints
    similarity: NDArray[np.float32]
    short: int

    @cached_property
    def sizes(self) -> Ints:
        """Rows of each representative's family, shape (rows,); 0 for all others."""
        return np.bincount(self.family, minlength=len(self.family))

    @property
    def near_families(self) -> int:
        """Families that hold more than one text."""
        return len(np.unique(self.family[self.family != self.exact]))

    @property
    def exact_families(self) -> int:
        """Texts that two rows or more share."""
        return int((np.bincount(self.exact, minlength=len(self.exact)) > 1).sum())

    @property
    def largest(self) -> int:
        """Rows of the largest family; 0 without rows."""
        return int(self.sizes.max(initial=0))


def find_families(
    rows: datasets.Dataset, *, similarity: float | None, num_proc: int = 1, progress: Progress = SILENT
) -> Families:
    """The families of the rows' `text`, exact ones and those at least `similarity` alike (0.3 to 1; None: exact only).

    Signatures and result are kept in the cache under the rows' fingerprint and found again by the next run. The result
    does not depend on `num_proc`. Raises EnvironmentFault where the cache cannot be written or a process dies.
    """
    key = fingerprint("families", rows._fingerprint, similarity, *_versions())
    path = cache_folder() / f"families-{key}.npz"
    if not path.exists():
        found = _find(rows, similarity=similarity, num_proc=num_proc, progress=progress)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file, family=found.family, exact=found.exact, similarity=found.similarity, short=np.array(found.short)
            )
    with np.load(path) as stored:
        return Families(stored["family"], stored["exact"], stored["similarity"], int(stored["short"]))


def text_similarity(one: str, other: str) -> float:
    """Jaccard similarity of the two texts' sets of words and word pairs (characters in Chinese), 0 to 1.

    Of texts without a word: 1 where they fold to the same, else 0.
    """
    first, second = shingles(one), shingles(other)
    if len(first) or len(second):
        return _jaccard(first, second)
    return float(folded_text(one) == folded_text(other))


def tokens(text: str) -> list[str]:
    """The words of the folded text; in scripts without spaces, its characters. Signs are no tokens."""
    return _TOKEN.findall(folded_text(text))


def shingles(text: str) -> Hashes:
    """The distinct 64-bit hashes of the text's tokens and pairs of neighbouring tokens, ascending."""
    words = np.array([xxhash.xxh3_64_intdigest(token.encode()) for token in tokens(text)], dtype=np.uint64)
    # Multiplying the first alone makes the order of the two count.
    return np.unique(np.concatenate([words, _mixed(words[:-1] * _ODD ^ words[1:])]))


def _versions() -> tuple[str, str]:
    """What makes a stored result stale: this code, and the library whose hashes it holds."""
    return code_version("near_duplicates.py", "duplicates.py"), datasketch.__version__


def _find(rows: datasets.Dataset, *, similarity: float | None, num_proc: int, progress: Progress) -> Families:
    texts = rows.select_columns("text").with_format("arrow")
    exact = exact_families(text or "" for text in values(rows, "text"))
    found = Families(exact.copy(), exact, np.ones(len(exact), dtype=np.float32), 0)
    if similarity is None or not len(rows):
        return found
    table = _signatures(texts, exact, similarity=similarity, num_proc=num_proc, progress=progress)
    counts = table[-1]
    is_first = exact == np.arange(len(exact))
    comparable = np.flatnonzero(is_first & (counts >= SHORTEST_SHINGLES))
    family, alike = found.family, found.similarity
    buckets = _Buckets(table[:-1], comparable)
    _join(texts, buckets, counts, similarity=similarity, family=family, alike=alike, progress=progress)
    # A repeated text goes where its first copy went.
    short = int((counts[exact] < SHORTEST_SHINGLES).sum())
    return Families(family[exact], exact, alike[exact], short)


# ---- signatures ----


def rows_in_a_band(similarity: float) -> int:
    """Signature hashes a bucket is made of: as many as leave two such similar texts a bucket in common.

    Two texts share a hash with the chance s of their similarity, all r hashes of a band with s**r, and at least one
    of the b bands with 1 - (1 - s**r)**b (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4).
    """
    for size in (16, 12, 8, 6, 5, 4, 3):
        bands = HASHES_IN_SIGNATURE // size
        if 1 - (1 - similarity**size) ** bands >= CHANCE_OF_A_SHARED_BUCKET:
            return size
    return 2


def _signatures(
    texts: datasets.Dataset, exact: Ints, *, similarity: float, num_proc: int, progress: Progress
) -> NDArray[np.uint32]:
    """Shape (bands + 1, rows), on the disk: each row's bucket key in each band, and below them its distinct shingles.

    Rows that repeat an earlier one have no shingles here.
    """
    size = rows_in_a_band(similarity)
    path = cache_folder() / f"signatures-{fingerprint(texts._fingerprint, size, *_versions())}.uint32"
    if not path.exists():
        with replacing(path) as temporary:
            job = _SigningJob(texts, exact == np.arange(len(exact)), temporary, size)
            with progress.bar(total=len(texts), desc="signatures of texts", unit="text", leave=False) as bar:
                for rows_done in job.run(num_proc):
                    bar.update(rows_done)
    return np.memmap(path, dtype=np.uint32, mode="r", shape=(HASHES_IN_SIGNATURE // size + 1, len(texts)))


@dataclass(frozen=True)
class _SigningJob:
    """What a process needs to sign any batch of rows; batches write columns of their own in one file."""

    texts: datasets.Dataset
    is_first: NDArray[np.bool_]
    path: Path
    rows_in_a_band: int

    def run(self, num_proc: int) -> Iterator[int]:
        """Rows done, batch by batch. Raises EnvironmentFault when a process dies."""
        starts = range(0, len(self.texts), ROWS_IN_A_BATCH)
        if num_proc == 1 or len(starts) == 1:
            yield from map(self.sign, starts)
            return
        try:
            with ProcessPoolExecutor(min(num_proc, len(starts)), initializer=_take_job, initargs=(self,)) as pool:
                yield from pool.map(_sign, starts)
        except BrokenProcessPool as error:
            what = "a process that compares texts was killed; was the memory used up?"
            raise EnvironmentFault("data.num_proc", what, "Use fewer processes.") from error

    def sign(self, start: int) -> int:
        texts = self.texts[start : start + ROWS_IN_A_BATCH]["text"]
        signatures = np.zeros((len(texts), HASHES_IN_SIGNATURE), dtype=np.uint32)
        counts = np.zeros(len(texts), dtype=np.uint32)
        blank = datasketch.MinHash(num_perm=HASHES_IN_SIGNATURE, hashfunc=int)
        for row in np.flatnonzero(self.is_first[start : start + ROWS_IN_A_BATCH]).tolist():
            found = shingles(texts[row].as_py() or "")
            signatures[row], counts[row] = _signature(found, blank), len(found)
        # Written, not mapped: a full disk is then an error that can be told and not the end of the process.
        with open(self.path, "r+b") as file:
            for line, values in enumerate([*_band_keys(signatures, self.rows_in_a_band).T, counts]):
                file.seek((line * len(self.texts) + start) * values.itemsize)
                file.write(values.tobytes())
        return len(texts)


# Of a worker process: the job is handed over once, not with every batch.
_jobs: list[_SigningJob] = []


def _take_job(job: _SigningJob) -> None:
    _jobs[:] = [job]


def _sign(start: int) -> int:
    return _jobs[0].sign(start)


def _signature(found: Hashes, blank: datasketch.MinHash) -> NDArray[np.uint32]:
    signed = blank.copy()
    halves = (found >> np.uint64(32)).tolist()  # datasketch permutes 32-bit hashes
    for start in range(0, len(halves), SHINGLES_SIGNED_AT_ONCE):
        signed.update_batch(halves[start : start + SHINGLES_SIGNED_AT_ONCE])
    return np.asarray(signed.hashvalues, dtype=np.uint32)


def _band_keys(signatures: NDArray[np.uint32], size: int) -> NDArray[np.uint32]:
    """A key for each band of `size` hashes, shape (texts, bands). Keys that meet by chance cost a comparison."""
    bands = HASHES_IN_SIGNATURE // size
    parts = signatures[:, : bands * size].reshape(len(signatures), bands, size).astype(np.uint64)
    keys = np.zeros(parts.shape[:2], dtype=np.uint64)
    for place in range(size):
        keys = _mixed(keys ^ parts[:, :, place])
    return (keys >> np.uint64(32)).astype(np.uint32)


# The golden ratio's multiplier of SplitMix64 (Steele, Lea, Flood 2014); products wrap around.
_ODD = np.uint64(0x9E3779B97F4A7C15)


def _mixed(values: Hashes) -> Hashes:
    values = (values ^ (values >> np.uint64(32))) * _ODD
    return values ^ (values >> np.uint64(29))


# ---- families ----


class _Buckets:
    """Which representatives a row shares buckets with: flat arrays, for a million rows have millions of buckets.

    Only buckets of two rows or more are kept, and only rows with such a bucket. A bucket owns as many slots as it has
    rows; its representatives fill them from the left.
    """

    def __init__(self, keys: NDArray[np.uint32], comparable: Ints) -> None:
        """`keys` has shape (bands, rows); `comparable` are the rows to look at, ascending."""
        of_row = np.full((len(comparable), len(keys)), -1, dtype=np.int32)
        sizes = [np.zeros(0, dtype=np.int64)]
        total = 0
        for band, keys_of_rows in enumerate(keys):
            own = keys_of_rows[comparable]
            order = np.argsort(own, kind="stable")
            starts = np.flatnonzero(np.diff(own[order], prepend=own[order][:1] + 1))
            lengths = np.diff(starts, append=len(order))
            shared = lengths > 1
            numbers = np.where(shared, np.cumsum(shared) - 1 + total, -1)
            of_row[order, band] = np.repeat(numbers, lengths)
            sizes.append(lengths[shared])
            total += int(shared.sum())
        has_company = (of_row >= 0).any(axis=1)
        self.rows, self._of_row = comparable[has_company], of_row[has_company]
        all_sizes = np.concatenate(sizes)
        self._starts = np.cumsum(all_sizes) - all_sizes
        self._filled = np.zeros(total, dtype=np.int32)
        self._slots = np.empty(int(all_sizes.sum()), dtype=np.int32)

    def candidates(self, position: int) -> tuple[Ints, Ints]:
        """Representatives in the buckets of `rows[position]` and how many buckets each shares, earliest first.

        Of full buckets only MOST_ENTRIES_READ are read, from the emptiest bucket on.
        """
        mine = self._of_row[position]
        mine = mine[mine >= 0]
        filled = self._filled[mine]
        found, left = [], MOST_ENTRIES_READ
        for place in np.argsort(filled, kind="stable"):
            count = min(int(filled[place]), left)
            start = self._starts[mine[place]]
            found.append(self._slots[start : start + count])
            left -= count
        rows, shared = np.unique(np.concatenate(found), return_counts=True)
        return rows.astype(np.int64), shared

    def add(self, position: int) -> None:
        """`rows[position]` represents a family: later rows shall find it."""
        mine = self._of_row[position]
        mine = mine[mine >= 0]
        self._slots[self._starts[mine] + self._filled[mine]] = self.rows[position]
        self._filled[mine] += 1


def _join(
    texts: datasets.Dataset,
    buckets: _Buckets,
    counts: NDArray[np.uint32],
    *,
    similarity: float,
    family: Ints,
    alike: NDArray[np.float32],
    progress: Progress,
) -> None:
    """Rows in order: each joins the earlier representative most like it, or becomes one. Fills `family` and `alike`."""
    remembered = _RecentShingles(texts)
    bar = progress.bar(iterable=buckets.rows.tolist(), desc="families of texts", unit="text", leave=False)
    for position, row in enumerate(bar):
        candidates, shared = buckets.candidates(position)
        # |A and B| / |A or B| is at most the smaller set over the larger.
        sizes = np.sort([counts[candidates], np.full(len(candidates), counts[row])], axis=0)
        possible = sizes[0] >= similarity * sizes[1]
        ranked = candidates[possible][np.argsort(-shared[possible], kind="stable")]
        best = 0.0
        for other in ranked[:MOST_TEXTS_COMPARED].tolist():
            found = _jaccard(remembered[row], remembered[other])
            if found >= similarity and (found > best or (found == best and other < family[row])):
                best, family[row], alike[row] = found, other, found
        if family[row] == row:
            buckets.add(position)


def _jaccard(one: Hashes, other: Hashes) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


class _RecentShingles:
    """The shingles of rows, read from the texts; the most recently used are remembered up to a fixed number."""

    def __init__(self, texts: datasets.Dataset) -> None:
        self._texts = texts
        self._by_row: OrderedDict[int, Hashes] = OrderedDict()
        self._total = 0

    def __getitem__(self, row: int) -> Hashes:
        if row in self._by_row:
            self._by_row.move_to_end(row)
            return self._by_row[row]
        found = self._by_row[row] = shingles(self._texts[row]["text"][0].as_py())
        self._total += len(found)
        while self._total > SHINGLES_REMEMBERED and len(self._by_row) > 2:
            self._total -= len(self._by_row.popitem(last=False)[1])
        return found
