"""Which images are the same image, or nearly: families that stay on one side of every split.

Two images are one family where their pixels are equal, or where copies of them shrunk to 16x16 pixels correlate at
least as asked. Correlation looks past brightness, contrast and compression; it does not look past a shift, a mirror
or a crop. Families are chained: whoever is as alike as that to any member belongs to the family, so that no two such
images ever lie on two sides of a split.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from finetune.data.blocks import Numbers
from finetune.data.image_pixels import Pixels
from finetune.data.near_duplicates import Families
from finetune.progress import SILENT, Progress

SHRUNK_SIDE = 16
ROWS_AT_ONCE = 1_024  # of a block of the product of all images with all
DIGEST_BYTES = 16  # 128 bits: no two of 10**9 images share one by accident
LEAST_DEVIATION = 1.0  # grey levels; flatter images have no pattern to correlate
LARGE_FAMILY_SHARE = 0.05
HASH_DIGITS = 16

Vectors = NDArray[np.float32]


def find_image_families(pixels: Pixels, *, similarity: float | None, progress: Progress = SILENT) -> Families:
    """The families of images, uint8 of shape (N, C, S, S): exact ones, and those at least `similarity` alike.

    As `near_duplicates.Families`: `family` and `exact` are the number of the first image of each, `similarity` is the
    correlation with the most similar image of the family, and `short` counts those that are compared exactly only,
    because nearly all their pixels are alike. None compares exactly only.

    Takes N * N / 2 products of 256 numbers (768 of colour) at worst, less those of images that lie too far apart along
    the direction of the largest variance to be alike. Memory is N such vectors and one block of products.
    """
    exact = exact_image_families(pixels)
    alike = np.ones(len(exact), dtype=np.float32)
    if similarity is None or not len(exact):
        return Families(exact.copy(), exact, alike, 0)
    firsts = np.flatnonzero(exact == np.arange(len(exact)))
    vectors, plain = shrunk(pixels, firsts)
    one, other, found = _pairs(vectors, np.flatnonzero(~plain), similarity=similarity, progress=progress)
    paired = firsts[np.concatenate([one, other])]
    alike[paired] = 0
    np.maximum.at(alike, paired, np.concatenate([found, found]))
    alike[np.bincount(exact, minlength=len(exact)) > 1] = 1
    ties = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(len(firsts), len(firsts)))
    component = connected_components(ties, directed=False)[1]
    # Firsts ascend, so the first of a component is the lowest number of its family.
    head = firsts[np.unique(component, return_index=True)[1]][component]
    family = head[np.searchsorted(firsts, exact)]
    return Families(family, exact, alike[exact], int(plain[np.searchsorted(firsts, exact)].sum()))


def exact_image_families(pixels: Pixels) -> Numbers:
    """The number of the first image with the same pixels, shape (N,)."""
    digests = b"".join(hashlib.blake2b(image.tobytes(), digest_size=DIGEST_BYTES).digest() for image in pixels)
    halves = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
    _, first, number = np.unique(halves, axis=0, return_index=True, return_inverse=True)
    return np.asarray(first[number.ravel()], dtype=np.int64)


def image_hash(image: Pixels) -> str:
    """The first 16 hexadecimal digits of the sha256 of an image's pixels: equal for exact duplicates."""
    return hashlib.sha256(image.tobytes()).hexdigest()[:HASH_DIGITS]


def image_similarity(one: Pixels, other: Pixels) -> float:
    """The correlation of two shrunk images, 0 to 1: 1 where all pixels are equal, 0 of an image without a pattern."""
    if np.array_equal(one, other):
        return 1.0
    vectors, _ = shrunk(np.stack([one, other]), np.arange(2))
    return float(np.clip(vectors[0] @ vectors[1], 0, 1))


def shrunk(pixels: Pixels, numbers: Numbers) -> tuple[Vectors, NDArray[np.bool_]]:
    """Images of these numbers as unit vectors of mean 0, shape (images, C * side * side), and which have no pattern.

    The dot product of two of them is their correlation.
    """
    channels, size = pixels.shape[1], pixels.shape[-1]
    side = min(SHRUNK_SIDE, size)
    vectors = np.empty((len(numbers), channels * side * side), dtype=np.float32)
    for place, number in enumerate(numbers):
        image = pixels[number]
        if side < size:
            planes = [Image.fromarray(plane).resize((side, side), Image.Resampling.BOX) for plane in image]
            image = np.stack([np.asarray(plane) for plane in planes])
        vectors[place] = image.reshape(-1)
    vectors -= vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    plain = lengths[:, 0] < LEAST_DEVIATION * np.sqrt(vectors.shape[1])
    return vectors / np.maximum(lengths, 1e-6), plain


def family_notes(families: Families, ids: list[str], labels: list[str | None]) -> list[str]:
    """Sentences on families of more than 5 % of all images, and on copies of one image with different labels."""
    notes, total = [], len(ids)
    for row in np.argsort(-families.sizes, kind="stable"):
        size = int(families.sizes[row])
        if size <= max(1, LARGE_FAMILY_SHARE * total):
            break
        notes.append(
            f"{size:,} of {total:,} images ({size / total:.0%}) are one family of duplicates, like {ids[int(row)]}. "
            "They stay in one split; raise data.near_duplicates where they are different images that look alike"
        )
    number = {label: count for count, label in enumerate(dict.fromkeys(labels))}
    label = np.array([number[each] for each in labels], dtype=np.int64)
    differing = np.flatnonzero(label != label[families.exact])
    if len(differing):
        first = int(differing[0])
        pair = f"{ids[first]} and {ids[int(families.exact[first])]}"
        copies = "1 copy" if len(differing) == 1 else f"{len(differing):,} copies"
        notes.append(f"{copies} of an image with another label than the first, such as {pair}")
    return notes


def _pairs(
    vectors: Vectors, numbers: Numbers, *, similarity: float, progress: Progress
) -> tuple[Numbers, Numbers, Vectors]:
    """All pairs among the vectors of these numbers at least so similar, and how similar they are."""
    order, along = _along_the_widest(vectors, numbers)
    sorted_vectors = vectors[order]
    # Unit vectors of correlation c are sqrt(2 - 2c) apart, and no further in any direction: others need no product.
    reach = np.sqrt(max(0.0, 2 - 2 * similarity)) + 1e-4
    found: list[tuple[Numbers, Numbers, Vectors]] = []
    starts = range(0, len(order), ROWS_AT_ONCE)
    for start in progress.bar(iterable=starts, desc="families of images", unit="block", leave=False):
        end = min(start + ROWS_AT_ONCE, len(order))
        last = int(np.searchsorted(along, along[end - 1] + reach, side="right"))
        for inner in range(start, last, ROWS_AT_ONCE):
            stop = min(inner + ROWS_AT_ONCE, last)
            product = sorted_vectors[start:end] @ sorted_vectors[inner:stop].T
            rows, columns = np.nonzero(product >= similarity)
            later = columns + inner > rows + start
            rows, columns = rows[later], columns[later]
            found.append((order[rows + start], order[columns + inner], product[rows, columns]))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    one, other, alike = (np.concatenate(each) for each in zip(*found, strict=True))
    return one, other, np.minimum(alike, 1).astype(np.float32)


def _along_the_widest(vectors: Vectors, numbers: Numbers) -> tuple[Numbers, Vectors]:
    """The numbers sorted by where their vectors lie along the direction of the largest variance, and these places."""
    if not len(numbers):
        return numbers, np.zeros(0, dtype=np.float32)
    sample = vectors[numbers[:: max(1, len(numbers) // 5_000)]]
    direction = np.linalg.eigh(sample.T @ sample)[1][:, -1].astype(np.float32)
    along = vectors[numbers] @ direction
    order = np.argsort(along, kind="stable")
    return numbers[order], along[order]
