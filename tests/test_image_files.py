"""Wherever the same pictures come from, the same pixels and labels are read; each format against its own writer."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from tiny_pictures import below, encoded, noise, tree, write_idx, write_tar, write_tree, write_zip

from finetune.data.image_files import Found, find_images, read_new_images
from finetune.data.image_pixels import Changes, Shape, decoded
from finetune.errors import DataError
from finetune.recipe_image import ImageColumns

PICTURES = noise(20)
LABELS = ["cat"] * 10 + ["dog"] * 10


def find(source: object, folder: Path, **columns: str | None) -> Found:
    return find_images(source, columns=ImageColumns(**columns), base=folder, most_pixels=10**6)  # type: ignore[arg-type]


def read(found: Found, part: str = "all") -> tuple[np.ndarray, list[str | None]]:
    """All pictures of a part as (N, 8, 8), and their labels."""
    shape, changes = Shape(8, 1), Changes()
    pictures, labels = [], list[str | None]()
    for source in found.parts[part]:
        numbers = range(len(source.entries))
        pictures += [decoded(content, shape=shape, changes=changes)[0] for content in source.contents(numbers)]  # type: ignore[arg-type]
        labels += [entry.label for entry in source.entries]
    return np.stack(pictures), labels


def in_a_folder(folder: Path) -> str:
    write_tree(folder / "pets", tree())
    return "pets"


def in_a_zip(folder: Path) -> str:
    return write_zip(folder / "pets.zip", below("pets/all", tree())).name


def in_a_tar(folder: Path) -> str:
    return write_tar(folder / "pets.tar.gz", below("./pets", tree())).name


def in_a_plain_tar(folder: Path) -> str:
    return write_tar(folder / "pets.tar", tree(), mode="w").name


def in_parquet(folder: Path) -> str:
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": encoded(each), "path": None} for each in PICTURES], "label": [0] * 10 + [1] * 10}
    )
    rows = rows.cast_column("image", datasets.Image()).cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))
    rows.to_parquet(folder / "pets.parquet")
    return "pets.parquet"


def in_arrow(folder: Path) -> str:
    table = pa.table({"image": [encoded(each) for each in PICTURES], "label": LABELS})
    with pa.OSFile(str(folder / "pets.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return "pets.arrow"


def beside_a_csv(folder: Path) -> str:
    files = {f"{number}.png": encoded(picture) for number, picture in enumerate(PICTURES)}
    lines = ["file_name,label", *(f"{number}.png,{label}" for number, label in enumerate(LABELS))]
    write_tree(folder / "pets", {**files, "metadata.csv": "\n".join(lines)})
    return "pets"


def named_by_jsonl(folder: Path) -> str:
    files = {f"p/{number}.png": encoded(picture) for number, picture in enumerate(PICTURES)}
    lines = (json.dumps({"image": f"p/{number}.png", "label": label}) for number, label in enumerate(LABELS))
    write_tree(folder, {**files, "pets.jsonl": "\n".join(lines)})
    return "pets.jsonl"


@pytest.mark.parametrize(
    "write",
    [in_a_folder, in_a_zip, in_a_tar, in_a_plain_tar, in_parquet, in_arrow, beside_a_csv, named_by_jsonl],
)
def test_every_source_gives_the_same_pictures(write: Callable[[Path], str], tmp_path: Path) -> None:
    found = find(write(tmp_path), tmp_path)
    pictures, labels = read(found)
    assert np.array_equal(pictures, PICTURES)
    assert labels == LABELS
    [source] = found.parts["all"]
    assert len(source.sha256) == 64
    assert len({source.origin(number) for number in range(20)}) == 20


@pytest.mark.parametrize("write", [in_a_folder, in_a_zip, in_a_tar, in_parquet, beside_a_csv])
def test_chosen_entries_alone_are_read(write: Callable[[Path], str], tmp_path: Path) -> None:
    [source] = find(write(tmp_path), tmp_path).parts["all"]
    pictures = [decoded(each, shape=Shape(8, 1), changes=Changes())[0] for each in source.contents([0, 7, 19])]  # type: ignore[arg-type]
    assert np.array_equal(pictures, PICTURES[[0, 7, 19]])


def test_the_digest_follows_the_pixels_and_not_the_clock(tmp_path: Path) -> None:
    for write in (in_a_folder, in_a_zip, in_parquet, beside_a_csv):
        folder = tmp_path / write.__name__
        folder.mkdir()
        name = write(folder)
        [before] = find(name, folder).parts["all"]
        changed = folder / name
        if changed.is_dir():
            changed = next(changed.rglob("*.png"))
            changed.write_bytes(encoded(noise(1, seed=9)[0]))
        else:
            changed.write_bytes(changed.read_bytes() + b"\0")
        try:
            [after] = find(name, folder).parts["all"]
        except DataError:
            continue
        assert before.sha256 != after.sha256


# ---- idx ----


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_with_the_labels_beside_it(zipped: bool, tmp_path: Path) -> None:
    labels = np.arange(20, dtype=np.uint8) % 10
    path = write_idx(tmp_path, PICTURES, labels, zipped=zipped)
    pictures, found = read(find(path.name, tmp_path))
    assert np.array_equal(pictures, PICTURES)
    assert found == [str(label) for label in labels]


def test_idx_without_labels_says_so(tmp_path: Path) -> None:
    found = find(write_idx(tmp_path, PICTURES, None).name, tmp_path)
    assert read(found)[1] == [None] * 20
    assert "no file of labels beside it" in found.notes[0]


def test_a_folder_of_idx_files_brings_its_splits(tmp_path: Path) -> None:
    labels = np.zeros(20, dtype=np.uint8)
    write_idx(tmp_path, PICTURES, labels)
    write_idx(tmp_path, PICTURES[:5], labels[:5], start="t10k")
    found = find(".", tmp_path)
    assert {part: len(read(found, part)[0]) for part in found.parts} == {"train": 20, "test": 5}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "does not begin with two zero bytes"),
        (b"PK\3\4 something else", "does not begin with two zero bytes"),
        (b"\0\0\x0d\x03" + bytes(12), "type 0x0d"),
        (b"\0\0\x08\x03\0\0", "ends too soon"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "announces"),
        (b"\0\0\x08\x01\0\0\0\x02\1\2", "not grey or colour images"),
    ],
)
def test_a_broken_idx_file_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=says):
        find("train-images-idx3-ubyte", tmp_path)


@pytest.mark.parametrize(("cut", "says"), [(-1, "image 20 of 20 is not whole"), (None, "goes on after")])
def test_an_idx_file_of_another_length_is_refused(cut: int | None, says: str, tmp_path: Path) -> None:
    path = write_idx(tmp_path, PICTURES, None, zipped=False)
    content = path.read_bytes()
    path.write_bytes(content[:cut] if cut else content + b"\0")
    with pytest.raises(DataError, match=says):
        read(find(path.name, tmp_path))


def test_labels_of_another_count_are_refused(tmp_path: Path) -> None:
    path = write_idx(tmp_path, PICTURES, np.zeros(19, dtype=np.uint8))
    with pytest.raises(DataError, match=r"has 19 labels, and train-images-idx3-ubyte\.gz has 20 images"):
        find(path.name, tmp_path)


# ---- trees ----


def parts_of(found: Found) -> dict[str, list[tuple[str, str | None]]]:
    return {
        part: [(entry.place, entry.label) for source in sources for entry in source.entries]
        for part, sources in found.parts.items()
    }


def test_folders_named_like_splits_are_splits(tmp_path: Path) -> None:
    picture = encoded(PICTURES[0])
    write_tree(
        tmp_path / "d", {f"{split}/{name}/1.png": picture for split in ("train", "val", "test") for name in "ab"}
    )
    assert parts_of(find("d", tmp_path)) == {
        "train": [("train/a/1.png", "a"), ("train/b/1.png", "b")],
        "validation": [("val/a/1.png", "a"), ("val/b/1.png", "b")],
        "test": [("test/a/1.png", "a"), ("test/b/1.png", "b")],
    }


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    write_tree(tmp_path / "d", tree(("test", "trial"), each=1))
    assert parts_of(find("d", tmp_path)) == {"all": [("test/0.png", "test"), ("trial/0.png", "trial")]}


def test_archives_that_hold_one_split_each(tmp_path: Path) -> None:
    write_zip(tmp_path / "train.zip", below("train", tree(each=2)))
    write_zip(tmp_path / "held.zip", below("test", tree(each=1)))
    found = find({"train": "train.zip", "test": "held.zip"}, tmp_path)
    assert {part: [label for _, label in each] for part, each in parts_of(found).items()} == {
        "train": ["cat", "cat", "dog", "dog"],
        "test": ["cat", "dog"],
    }
    assert list(find("held.zip", tmp_path).parts) == ["all"]


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    write_tree(tmp_path / "d", {f"{number}.png": encoded(PICTURES[number]) for number in range(3)})
    assert parts_of(find("d", tmp_path)) == {"all": [("0.png", None), ("1.png", None), ("2.png", None)]}


def test_without_labels_images_may_lie_at_any_depth(tmp_path: Path) -> None:
    picture = encoded(PICTURES[0])
    write_tree(tmp_path / "d", {"1.png": picture, "a/2.png": picture, "a/b/c/3.png": picture})
    with pytest.raises(DataError, match=r"lie beside the class folders: 1\.png"):
        find("d", tmp_path)
    assert [label for _, label in parts_of(find("d", tmp_path, label=None))["all"]] == [None] * 3


def test_a_tree_has_no_column_of_captions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metadata\.csv"):
        find(in_a_zip(tmp_path), tmp_path, caption="text")


# ---- tables ----


def test_columns_of_a_table(tmp_path: Path) -> None:
    image = pa.array([{"bytes": encoded(each), "path": None} for each in PICTURES[:3]])
    table = pa.table({"img": image, "who": ["a", "a", "b"], "kind": ["x", "y", "x"], "says": ["one", "two", "three"]})
    pq.write_table(table, tmp_path / "t.parquet")
    found = find("t.parquet", tmp_path, image="img", label="kind", caption="says", group="who")
    entries = found.parts["all"][0].entries
    assert [(each.label, each.caption, each.group) for each in entries] == [
        ("x", "one", "a"),
        ("y", "two", "a"),
        ("x", "three", "b"),
    ]
    without = find("t.parquet", tmp_path, image="img")
    assert "no column 'label'" in without.notes[0]
    with pytest.raises(DataError, match=r"no column 'sort' in t\.parquet"):
        find("t.parquet", tmp_path, image="img", label="sort")
    with pytest.raises(DataError, match="no column 'image'"):
        find("t.parquet", tmp_path)
    with pytest.raises(DataError, match="holds no images"):
        pq.write_table(pa.table({"image": [1, 2]}), tmp_path / "n.parquet")
        find("n.parquet", tmp_path)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "gone.png", ""])
def test_a_table_names_files_below_itself(name: str, tmp_path: Path) -> None:
    write_tree(tmp_path, {"secret.png": encoded(PICTURES[0]), "d/list.csv": f"image,label\n{name},a\nx.png,b\n"})
    [source] = find("list.csv", tmp_path / "d").parts["all"]
    first = next(iter(source.contents([0])))
    assert isinstance(first, DataError)


def test_a_folder_of_parquet_files_brings_its_splits(tmp_path: Path) -> None:
    for split, rows in {"train": slice(0, 10), "test": slice(10, 14)}.items():
        table = pa.table({"image": [encoded(each) for each in PICTURES[rows]], "label": LABELS[rows]})
        pq.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    found = find(".", tmp_path)
    assert {part: len(read(found, part)[0]) for part in found.parts} == {"train": 10, "test": 4}


def test_a_hub_dataset_by_its_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_parquet(str(tmp_path / in_parquet(tmp_path)), cache_dir=str(tmp_path / "cache"))
    monkeypatch.setattr("finetune.data.image_tables.fetch_dataset", lambda name: {"train": rows, "test": rows})
    found = find("someone/pets", tmp_path)
    assert list(found.parts) == ["train", "test"]
    pictures, labels = read(found, "test")
    assert np.array_equal(pictures, PICTURES)
    assert labels == LABELS


# ---- digits, names, new images ----


def test_the_digits_are_those_of_scikit_learn(tmp_path: Path) -> None:
    pictures, labels = read(find("builtin:digits", tmp_path))
    bundle = load_digits()
    assert pictures.shape == (1797, 8, 8)
    assert np.abs(pictures / 255 * 16 - bundle.images).max() < 0.04
    assert labels == [str(digit) for digit in bundle.target]
    assert pictures.max() == 255


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pest", "Did you mean 'pets'"),
        ("builtin:digit", "Did you mean 'builtin:digits'"),
        ("https://example.org/pets.zip", "is an address"),
        ("notes.txt", "is no image, archive or table of images"),
    ],
)
def test_a_name_that_is_nothing(name: str, says: str, tmp_path: Path) -> None:
    in_a_folder(tmp_path)
    (tmp_path / "notes.txt").write_text("milk")
    with pytest.raises(DataError, match=says):
        find(name, tmp_path)


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    in_a_folder(tmp_path)
    with pytest.raises(DataError, match="for train and test"):
        find({"train": "pets", "test": "pets"}, tmp_path)


@pytest.mark.parametrize("write", [in_a_folder, in_a_zip])
def test_new_images(write: Callable[[Path], str], tmp_path: Path) -> None:
    path = tmp_path / write(tmp_path)
    pixels, names = read_new_images(path, size=8, channels=1, resize="crop", most_pixels=10**6)
    assert np.array_equal(pixels[:, 0], PICTURES)
    assert names[0].startswith(path.name) and names[0].endswith("cat/0.png")


def test_a_single_new_image_in_colour(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(encoded(noise(1, size=12, channels=3)[0]))
    pixels, names = read_new_images(tmp_path / "one.png", size=8, channels=3, resize="stretch", most_pixels=10**6)
    expected = np.asarray(Image.open(tmp_path / "one.png").resize((8, 8), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert names == ["one.png"]
    assert np.array_equal(pixels[0], expected)


def test_broken_new_images_are_named_together(tmp_path: Path) -> None:
    write_tree(tmp_path / "d", {"a.png": encoded(PICTURES[0]), "b.png": b"no", "c.png": b""})
    with pytest.raises(DataError) as caught:
        read_new_images(tmp_path / "d", size=8, channels=1, resize="crop", most_pixels=10**6)
    assert [problem.where for problem in caught.value.problems] == ["d/b.png", "d/c.png"]


def test_a_tar_is_read_without_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = in_a_tar(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for method in ("extract", "extractall"):
        monkeypatch.setattr(tarfile.TarFile, method, lambda *given, **more: pytest.fail("unpacked"))
    read(find(name, tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


def test_what_becomes_of_new_images_is_said(tmp_path: Path) -> None:
    """Resizing and colour too; the grid that `sample` writes shows its images again, and is none of them."""
    for name in ("1", "grid"):
        Image.fromarray(np.full((20, 24, 3), 90, dtype=np.uint8)).save(tmp_path / f"{name}.png")
    said: list[str] = []
    read_new = dict(size=8, channels=1, resize="crop", most_pixels=10_000, say=said.append)
    assert len(read_new_images(tmp_path, **read_new)[1]) == 2  # type: ignore[arg-type]
    assert said == ["2 images larger than asked, shrunk", "2 images of mode RGB read as grey"]
    (tmp_path / "samples.json").write_text("{}", encoding="utf-8")
    said.clear()
    assert read_new_images(tmp_path, **read_new)[1] == [f"{tmp_path.name}/1.png"]  # type: ignore[arg-type]
    assert said[0] == f"{tmp_path.name}: grid.png left out, which shows the other images again"
