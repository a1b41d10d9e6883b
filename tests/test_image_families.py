"""Duplicates among images against plain definitions: numpy's own correlation of every pair, and sets of bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse.csgraph import connected_components
from sklearn.datasets import load_sample_image
from tiny_pictures import noise

from finetune.data import image_families
from finetune.data.image_families import (
    exact_image_families,
    family_notes,
    find_image_families,
    image_hash,
    image_similarity,
)


def alike(count: int, *, seed: int, size: int = 8, channels: int = 1, blend: float = 0.5) -> np.ndarray:
    """(count, C, S, S) pictures of a few motifs with noise, so that pairs of every correlation are among them."""
    rng = np.random.default_rng(seed)
    motifs = rng.integers(0, 256, (max(1, count // 4), channels, size, size))
    own = rng.integers(0, 256, (count, channels, size, size))
    share = rng.uniform(0, blend, (count, 1, 1, 1))
    return (motifs[rng.integers(0, len(motifs), count)] * (1 - share) + own * share).astype(np.uint8)


@pytest.mark.parametrize("rows_at_once", [3, 16, 1024])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("similarity", [0.6, 0.9, 0.97])
def test_families_are_the_components_of_all_similar_pairs(
    similarity: float, channels: int, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_families, "ROWS_AT_ONCE", rows_at_once)
    pixels = alike(60, seed=channels, channels=channels)
    pixels[10:20] = pixels[:10]
    found = find_image_families(pixels, similarity=similarity)
    correlation = np.corrcoef(pixels.reshape(60, -1))
    assert not (np.abs(correlation - similarity) < 1e-5).any(), "a pair on the border would prove nothing"
    component = connected_components(correlation >= similarity, directed=False)[1]
    first = np.array([np.flatnonzero(component == each)[0] for each in component])
    assert np.array_equal(found.family, first)
    assert 1 < len(set(component.tolist())) < 50
    np.fill_diagonal(correlation, 0)
    has_company = np.isin(np.arange(60), np.flatnonzero((correlation >= similarity).any(axis=1)))
    assert np.allclose(found.similarity[has_company], correlation.max(axis=1)[has_company], atol=1e-3)
    assert (found.similarity[~has_company] == 1).all()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_exact_families_are_the_first_of_equal_bytes(numbers: list[int]) -> None:
    pictures = noise(6)[:, None]
    pixels = pictures[numbers]
    assert exact_image_families(pixels).tolist() == [numbers.index(each) for each in numbers]
    found = find_image_families(pixels, similarity=None)
    assert found.family.tolist() == found.exact.tolist() == [numbers.index(each) for each in numbers]
    assert found.near_families == 0


def test_no_similar_pair_is_in_two_families() -> None:
    """What a split rests on: chains are followed, whatever they add up to."""
    start, end = noise(2, size=16).astype(float)
    steps = np.linspace(0, 1, 12)[:, None, None]
    chain = (start * (1 - steps) + end * steps).astype(np.uint8)[:, None]
    found = find_image_families(chain, similarity=0.9)
    assert image_similarity(chain[0], chain[-1]) < 0.3
    assert set(found.family.tolist()) == {0}


def changed_copies() -> dict[str, np.ndarray]:
    photo = Image.fromarray(load_sample_image("china.jpg")[100:228, 200:328]).resize((64, 64))

    def jpeg(image: Image.Image, quality: int) -> Image.Image:
        sink = io.BytesIO()
        image.save(sink, "JPEG", quality=quality)
        return Image.open(sink)

    copies = {
        "photo": photo,
        "jpeg": jpeg(photo, 75),
        "smaller": photo.resize((32, 32)).resize((64, 64)),
        "darker": photo.point(lambda value: value * 0.7),
        "mirrored": photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "shifted": Image.fromarray(np.roll(np.asarray(photo), 6, axis=1)),
    }
    return {name: np.asarray(image).transpose(2, 0, 1) for name, image in copies.items()}


def test_copies_that_are_found_and_copies_that_are_not() -> None:
    """Compression, size and brightness are looked past; a mirror image and a shift are other pictures."""
    copies = changed_copies()
    found = find_image_families(np.stack(list(copies.values())), similarity=0.99)
    same = dict(zip(copies, (found.family == 0).tolist(), strict=True))
    assert same == {"photo": True, "jpeg": True, "smaller": True, "darker": True, "mirrored": False, "shifted": False}


def test_images_without_a_pattern_are_compared_exactly_only() -> None:
    flat = np.stack([np.full((1, 8, 8), value, np.uint8) for value in (0, 0, 128, 255)])
    found = find_image_families(flat, similarity=0.6)
    assert found.family.tolist() == [0, 0, 2, 3]
    assert found.short == 4
    assert image_similarity(flat[0], flat[2]) == 0
    assert image_similarity(flat[0], flat[1]) == 1


def test_no_images_have_no_families() -> None:
    assert find_image_families(np.zeros((0, 1, 8, 8), np.uint8), similarity=0.9).largest == 0


def test_notes_of_large_families_and_of_copies_with_other_labels() -> None:
    pixels = noise(30)[:, None]
    pixels[1:4] = pixels[0]
    ids = [f"{number}.png" for number in range(30)]
    labels: list[str | None] = ["cat", "cat", "dog", *["cat"] * 27]
    notes = family_notes(find_image_families(pixels, similarity=0.9), ids, labels)
    assert notes[0].startswith("4 of 30 images (13%) are one family of duplicates, like 0.png")
    assert notes[1] == "1 copy of an image with another label than the first, such as 2.png and 0.png"
    assert family_notes(find_image_families(noise(30)[:, None], similarity=0.9), ids, labels) == []


def test_the_hash_tells_pictures_apart() -> None:
    pictures = noise(50)
    assert len({image_hash(each) for each in pictures}) == 50
    assert image_hash(pictures[3]) == image_hash(pictures[3].copy())
