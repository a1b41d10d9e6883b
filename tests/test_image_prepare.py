"""An image recipe becomes three splits: whole families and groups, every label in each, the same for the same bytes."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_pictures import below, encoded, image_recipe_file, noise, prepared, tree, write_tree, write_zip

from finetune.data import image_store
from finetune.data.image_prepare import PreparedImages, prepare_images
from finetune.errors import DataError, GateFailed
from finetune.progress import SILENT
from finetune.runs import Json

SIZES = {"train": 28, "validation": 6, "test": 6}


def sizes(found: PreparedImages) -> dict[str, int]:
    return {name: len(table) for name, table in found.splits.items()}


def table_of(folder: Path, pictures: np.ndarray, **columns: list[str | None]) -> str:
    pq.write_table(pa.table({"image": [encoded(each) for each in pictures], **columns}), folder / "t.parquet")
    return "t.parquet"


def test_a_folder_becomes_three_splits(tmp_path: Path) -> None:
    files = tree(each=20)
    write_tree(tmp_path / "pets", files)
    found = prepared(tmp_path, "pets")
    assert sizes(found) == SIZES
    assert found.labels.names == ("cat", "dog")
    seen = {}
    for table in found.splits.values():
        assert table.labels is not None
        assert Counter(table.labels.tolist()) == {0: len(table) // 2, 1: len(table) // 2}
        assert (table.pixels.dtype, table.pixels.shape) == (np.uint8, (len(table), 1, 8, 8))
        for name, image, label in zip(table.ids, table.pixels, table.labels, strict=True):
            seen[name.removeprefix("pets/")] = encoded(image[0])
            assert name.split("/")[1] == found.labels.names[label]
    assert seen == files
    assert found.warnings == []


def test_the_report_tells_what_was_read(tmp_path: Path) -> None:
    write_tree(tmp_path / "pets", {**tree(each=20), ".DS_Store": "x"})
    report: Json = prepared(tmp_path, "pets").report
    assert [each["name"] for each in report["files"]] == ["pets"]
    assert len(report["files"][0]["sha256"]) == 64
    assert report["files"][0]["rows"] == 40
    assert report["label_counts"]["train"] == {"cat": 14, "dog": 14}
    assert report["splits"]["sizes"] == SIZES
    assert report["duplicate_families"]["rows_in_families"] == 0
    assert report["leaks"]["policy"] == "refuse"
    assert report["images"]["resizing"].startswith("8x8 pixels, grey")
    assert report["images"]["smallest"] == report["images"]["largest"] == [8, 8]
    assert report["notes"] == ["pets: 1 file that is no image ignored: .DS_Store"]
    assert report["warnings"] == []


def test_facts_of_the_training_pixels(tmp_path: Path) -> None:
    write_tree(tmp_path / "pets", tree(each=20))
    found = prepared(tmp_path, "pets", image="size: 8, channels: colour")
    pixels = found.splits["train"].pixels / 255
    assert pixels.shape == (28, 3, 8, 8)
    assert np.allclose(found.report["images"]["train_mean"], pixels.mean(axis=(0, 2, 3)))
    assert np.allclose(found.report["images"]["train_deviation"], pixels.std(axis=(0, 2, 3)))


def test_the_same_recipe_gives_the_same_splits_and_another_seed_others(tmp_path: Path) -> None:
    write_tree(tmp_path / "pets", tree(each=20))
    one, again = prepared(tmp_path, "pets"), prepared(tmp_path, "pets")
    other = prepared(tmp_path, "pets", data="  split: {seed: 99}\n")
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert one.splits["test"].ids == again.splits["test"].ids != other.splits["test"].ids


def test_digits_by_default(tmp_path: Path) -> None:
    found = prepared(tmp_path, "builtin:digits")
    assert sizes(found) == {"train": 1259, "validation": 269, "test": 269}
    assert found.labels.names == tuple("0123456789")
    assert found.splits["train"].ids[0].startswith("builtin:digits:")


# ---- families, groups, leaks ----


def test_copies_stay_in_one_split(tmp_path: Path) -> None:
    """Ten pictures four times over: each with a lighter one, a compressed one and itself."""
    pictures = noise(10, size=8)
    files = {}
    for number, picture in enumerate(pictures):
        lighter = (picture * 0.8 + 40).astype(np.uint8)
        for copy, content in enumerate((picture, picture, lighter, lighter)):
            files[f"{'ab'[number % 2]}/{number}-{copy}.png"] = encoded(content)
    write_tree(tmp_path / "d", files)
    found = prepared(tmp_path, "d")
    home: dict[str, set[str]] = {}
    for name, table in found.splits.items():
        for each in table.ids:
            home.setdefault(each.split("/")[-1].split("-")[0], set()).add(name)
    assert [len(each) for each in home.values()] == [1] * 10
    families = found.report["duplicate_families"]
    assert (families["exact_families"], families["near_families"], families["largest"]) == (20, 10, 4)
    assert np.unique(np.concatenate(list(found.families.values())), return_counts=True)[1].tolist() == [4] * 10
    assert all(each["leaking"] == 0 for each in found.report["leaks"]["left"])


def test_groups_stay_in_one_split_with_the_families_that_tie_them(tmp_path: Path) -> None:
    pictures = noise(40)
    pictures[1] = pictures[0]  # ties group 0 and group 1
    groups: list[str | None] = [f"g{number // 2 if number > 1 else number}" for number in range(38)] + [None, None]
    source = table_of(tmp_path, pictures, label=["a", "b"] * 20, who=groups)
    found = prepared(tmp_path, source, data="  columns: {group: who}\n")
    home = {group: name for name, table in found.splits.items() for group in table.groups if group}
    for name, table in found.splits.items():
        assert {home[group] for group in table.groups if group} <= {name}
    assert home["g0"] == home["g1"]
    assert sum(table.groups.count(None) for table in found.splits.values()) == 2


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    train, test = tree(each=10), tree(each=4, seed=1)
    test["cat/0.png"] = train["cat/3.png"]
    picture = noise(20)[13]
    test["dog/1.png"] = encoded((picture * 0.9).astype(np.uint8))  # of dog/3.png
    write_tree(tmp_path / "pets", {**below("train", train), **below("test", test)})
    return tmp_path


def test_leaks_into_a_test_split_that_was_brought_are_refused(leaky: Path) -> None:
    with pytest.raises(GateFailed) as caught:
        prepared(leaky, "pets")
    exact, near = map(str, caught.value.problems)
    assert "1 of 8 images (12.5 %) is an exact duplicate of train images" in exact
    assert "pets/test/cat/0.png and pets/train/cat/3.png (1.00)" in exact
    assert "1 of 8 images (12.5 %) is a near duplicate of train images" in near
    assert "pets/test/dog/1.png and pets/train/dog/3.png" in near
    assert "Set data.leaks: move" in near


def test_leaks_are_moved_or_warned_of(leaky: Path) -> None:
    moved = prepared(leaky, "pets", data="  leaks: move\n")
    assert sizes(moved)["test"] == 6
    assert any(
        "2 of 8 images (25.0 %) were moved to train, which has their image or group" in each for each in moved.warnings
    )
    assert all(each["leaking"] == 0 for each in moved.report["leaks"]["left"])
    warned = prepared(leaky, "pets", data="  leaks: warn\n")
    assert sizes(warned)["test"] == 8
    assert sum(each.startswith("warning: test: 1 of 8 images") for each in warned.warnings) == 2


def test_a_missing_part_is_taken_from_train(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", below("train", tree(each=20)))
    write_tree(tmp_path / "b", tree(each=3, seed=5))
    found = prepared(tmp_path, "{train: a.zip, test: b}")
    assert sizes(found)["test"] == 6
    assert sum(sizes(found).values()) == 46
    assert any(
        "no validation part was given" in each and "images were taken from train" in each for each in found.warnings
    )


# ---- labels and captions ----


def test_images_without_labels(tmp_path: Path) -> None:
    write_tree(tmp_path / "d", {f"{number}.png": encoded(picture) for number, picture in enumerate(noise(20))})
    found = prepared(tmp_path, "d")
    assert found.labels.names == ()
    assert found.splits["train"].labels is None
    assert "label_counts" not in found.report
    with pytest.raises(DataError, match=r"image\.condition: 'label' is made of labels, and no image has one"):
        prepared(tmp_path, "d", image="size: 8, condition: label")


def test_one_class_is_enough_where_labels_are_not_asked_for(tmp_path: Path) -> None:
    write_tree(tmp_path / "d", tree(("cat",), each=20))
    assert prepared(tmp_path, "d").labels.names == ("cat",)
    with pytest.raises(DataError, match="only one class"):
        prepared(tmp_path, "d", image="size: 8, condition: label")


def test_labels_that_some_images_miss(tmp_path: Path) -> None:
    source = table_of(tmp_path, noise(20), label=["a", "b", None, "a"] * 5)
    with pytest.raises(DataError, match=r"t\.parquet: 5 images without label: 3, 7, 11"):
        prepared(tmp_path, source)


def test_a_label_that_train_misses(tmp_path: Path) -> None:
    write_tree(tmp_path / "d", {**below("train", tree(each=10)), **below("test", tree(("cat", "cow"), each=3, seed=1))})
    with pytest.raises(DataError, match=r"d: label 'cow' \(3 images: test/cow/0.png.* is not in train"):
        prepared(tmp_path, "d")


def test_captions_of_the_source(tmp_path: Path) -> None:
    texts: list[str | None] = [f"picture {number}" for number in range(20)]
    source = table_of(tmp_path, noise(20), says=texts)
    found = prepared(tmp_path, source, data="  columns: {caption: says}\n")
    for table in found.splits.values():
        assert table.captions is not None
        assert [int(each.split(":")[1]) - 1 for each in table.ids] == [int(each.split()[1]) for each in table.captions]
    source = table_of(tmp_path, noise(20), says=[*texts[:-1], None])
    with pytest.raises(DataError, match="1 of 20 images have no caption"):
        prepared(tmp_path, source, data="  columns: {caption: says}\n")


def test_own_ids(tmp_path: Path) -> None:
    source = table_of(tmp_path, noise(20), label=["a", "b"] * 10, key=[f"k{number}" for number in range(20)])
    found = prepared(tmp_path, source, data="  columns: {id: key}\n")
    assert {each for table in found.splits.values() for each in table.ids} == {f"k{number}" for number in range(20)}
    source = table_of(tmp_path, noise(20), label=["a", "b"] * 10, key=["k"] * 20)
    with pytest.raises(DataError, match="id 'k' is already that of"):
        prepared(tmp_path, source, data="  columns: {id: key}\n")


# ---- the cache ----


def test_images_are_decoded_once_and_again_when_a_byte_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path / "pets", tree(each=20, seed=77))
    one = prepared(tmp_path, "pets")
    counted: list[int] = []
    real = image_store.pixels_of
    monkeypatch.setattr(image_store, "pixels_of", lambda *given, **more: counted.append(1) or real(*given, **more))
    assert prepared(tmp_path, "pets").fingerprint == one.fingerprint
    assert not counted
    path = tmp_path / "pets/cat/5.png"
    before = path.stat()
    path.write_bytes(encoded(noise(1, seed=123)[0]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert prepared(tmp_path, "pets").fingerprint != one.fingerprint
    assert len(counted) == 40
    prepared(tmp_path, "pets", image="size: 9")
    assert len(counted) == 80


def test_large_splits_are_mapped_and_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path / "pets", tree(each=20))
    small = prepared(tmp_path, "pets")
    monkeypatch.setattr(image_store, "BYTES_WORTH_A_FILE", 1)
    mapped = prepared(tmp_path, "pets")
    assert isinstance(mapped.splits["train"].pixels, np.memmap)
    assert not isinstance(small.splits["train"].pixels, np.memmap)
    assert mapped.fingerprint == small.fingerprint


def test_a_limit_is_a_seeded_sample(tmp_path: Path) -> None:
    write_tree(tmp_path / "pets", tree(each=20))
    found = prepared(tmp_path, "pets", data="  limit: 20\n")
    assert sum(sizes(found).values()) == 20
    assert "all: 20 of 40 images sampled" in found.report["notes"]
    assert found.fingerprint == prepared(tmp_path, "pets", data="  limit: 20\n").fingerprint
    assert found.fingerprint != prepared(tmp_path, "pets", data="  limit: 20\n  split: {seed: 5}\n").fingerprint


def test_the_split_table_tells_who_went_where(tmp_path: Path) -> None:
    write_tree(tmp_path / "pets", tree(each=20))
    found = prepare_images(image_recipe_file(tmp_path, "pets"), progress=SILENT)
    columns = found.split_table()
    assert set(columns) == {"id", "group", "content_hash", "family", "split", "fold"}
    assert Counter(columns["split"].tolist()) == SIZES
    assert len(set(columns["content_hash"].to_pylist())) == 40
    table = pa.table(columns)
    assert table["fold"].null_count == 40
