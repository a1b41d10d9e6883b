"""Part H of the catalogue of bad inputs: images and archives. Each test's id begins with the catalogue's.

A refusal names the file or the entry, changes nothing on the disk, and is the same for `finetune check`.
"""

from __future__ import annotations

import io
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from bad_inputs import on_disk
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_pictures import encoded, image_recipe_file, noise, prepared, tree, write_tar, write_tree, write_zip

from finetune.cli import main
from finetune.data import image_archives
from finetune.data.image_archives import archive_contents, list_archive
from finetune.data.image_pixels import Changes, Shape, Unreadable, decoded
from finetune.data.store import cache_folder
from finetune.errors import DataError, FinetuneError

PNG = encoded(noise(1, seed=50)[0])
PETS = tree(each=10)


@dataclass(frozen=True)
class Bad:
    """Files below a folder `pets`, or what builds the source, and what a refusal says."""

    id: str
    says: tuple[str, ...]
    files: dict[str, bytes | str] = field(default_factory=dict)
    build: Callable[[Path], object] | None = None
    source: str = "pets"
    data: str = ""

    def write(self, folder: Path) -> None:
        if self.build is not None:
            self.build(folder)
        else:
            write_tree(folder / "pets", self.files)


def with_pets(**files: bytes | str) -> dict[str, bytes | str]:
    """The sound pictures and more: `cat__x_png` is cat/x.png."""
    return {**PETS, **{re.sub("__", "/", re.sub("_(?=[a-z]+$)", ".", name)): each for name, each in files.items()}}


def zipped(name: str, content: bytes = PNG, **attributes: int) -> Callable[[Path], object]:
    """A sound archive with one entry more, of this very name and these attributes."""

    def build(folder: Path) -> None:
        write_zip(folder / "pets.zip", PETS)
        with zipfile.ZipFile(folder / "pets.zip", "a") as archive:
            entry = zipfile.ZipInfo("placeholder")
            entry.filename = name
            for key, value in attributes.items():
                setattr(entry, key, value)
            archive.writestr(entry, content)

    return build


def tarred(name: str, **attributes: object) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        member = tarfile.TarInfo(name)
        for key, value in attributes.items():
            setattr(member, key, value)
        write_tar(folder / "pets.tar.gz", PETS, more=[member])

    return build


def encrypted(folder: Path) -> None:
    """The flag that says so, set in both headers of every entry."""
    content = bytearray(write_zip(folder / "pets.zip", PETS).read_bytes())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        for found in re.finditer(re.escape(mark), bytes(content)):
            content[found.start() + offset] |= 1
    (folder / "pets.zip").write_bytes(bytes(content))


def bomb(folder: Path) -> None:
    write_zip(folder / "pets.zip", {**PETS, "cat/zero.png": bytes(80 << 20)})


def bomb_in_a_tar(folder: Path) -> None:
    write_tar(folder / "pets.tar.gz", {**PETS, "cat/zero.png": bytes(80 << 20)})


def header_bomb(folder: Path) -> None:
    """A tar whose extended header claims 300 MB, and is made of zeros."""
    member = tarfile.TarInfo("cat/h.png")
    member.size, member.type = 300 << 20, tarfile.XHDTYPE
    with tarfile.open(folder / "pets.tar.gz", "w:gz") as archive:
        archive.addfile(member, io.BytesIO(bytes(300 << 20)))


def huge_png(width: int, height: int) -> bytes:
    """A PNG of under 100 bytes that announces a size and holds nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b""), b"IEND"]
    packed = (struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def cut_zip(folder: Path) -> None:
    path = write_zip(folder / "pets.zip", PETS)
    path.write_bytes(path.read_bytes()[:-40])


def cut_tar(folder: Path) -> None:
    path = write_tar(folder / "pets.tgz", PETS)
    path.write_bytes(path.read_bytes()[:-400])


def empty_class(folder: Path) -> None:
    write_tree(folder / "pets", PETS)
    (folder / "pets/cow").mkdir()


REFUSED = [
    Bad("H01-truncated", ("pets/cat/t.png: is damaged or incomplete",), with_pets(cat__t_png=PNG[:-30])),
    Bad("H01-empty", ("pets/cat/e.png: the file is empty",), with_pets(cat__e_png=b"")),
    Bad("H01-text", ("pets/cat/x.jpg: is no image that can be read (it holds text)",), with_pets(cat__x_jpg="hello")),
    Bad("H01-svg", ("pets/cat/s.png: is no image",), with_pets(cat__s_png="<svg xmlns='http://www.w3.org/2000/svg'/>")),
    Bad(
        "H01-all-listed",
        ("pets/cat/a.png", "pets/dog/b.png", "pets/dog/c.gif"),
        with_pets(cat__a_png=b"", dog__b_png=PNG[:40], dog__c_gif=b"GIF89a"),
    ),
    Bad(
        "H02-float",
        ("pets/cat/f.tif: has fractional pixel values",),
        with_pets(cat__f_tif=encoded(Image.new("F", (9, 9)), "TIFF")),
    ),
    Bad(
        "H02-32-bit",
        ("pets/cat/i.tif: has pixel values from 0 to 9,000,000",),
        with_pets(cat__i_tif=encoded(Image.fromarray(np.array([[0] * 4] * 3 + [[9_000_000] * 4], np.int32)), "TIFF")),
    ),
    Bad(
        "H03-one-pixel",
        ("pets/cat/o.png: is 1x1 pixels, and an image has at least 4x4",),
        with_pets(cat__o_png=encoded(Image.new("L", (1, 1)))),
    ),
    Bad(
        "H03-too-many",
        ("is 9,000x9,000, more than 50,000,000 pixels", "data.most_pixels"),
        with_pets(cat__h_png=huge_png(9000, 9000)),
    ),
    Bad("H03-bomb", ("more than 50,000,000 pixels",), with_pets(cat__h_png=huge_png(60_000, 60_000))),
    Bad(
        "H03-own-limit",
        ("is 12x12, more than 100 pixels",),
        with_pets(cat__h_png=encoded(noise(1, size=12)[0])),
        data="  most_pixels: 100\n",
    ),
    Bad(
        "H04-zip-parent",
        ("pets.zip: '../evil.png'", "leads out of the archive"),
        build=zipped("../evil.png"),
        source="pets.zip",
    ),
    Bad("H04-zip-inner-parent", ("'cat/../../evil.png'",), build=zipped("cat/../../evil.png"), source="pets.zip"),
    Bad("H04-zip-absolute", ("'/tmp/evil.png'", "an absolute name"), build=zipped("/tmp/evil.png"), source="pets.zip"),
    Bad("H04-zip-drive", ("'C:/evil.png'", "an absolute name"), build=zipped("C:/evil.png"), source="pets.zip"),
    Bad("H04-zip-backslash", ("leads out of the archive",), build=zipped("..\\evil.png"), source="pets.zip"),
    Bad("H04-tar-parent", ("pets.tar.gz: '../evil.png'",), build=tarred("../evil.png"), source="pets.tar.gz"),
    Bad(
        "H04-tar-absolute", ("'/tmp/evil.png'", "an absolute name"), build=tarred("/tmp/evil.png"), source="pets.tar.gz"
    ),
    Bad(
        "H05-zip-link",
        ("'cat/l.png': is a link, not a file",),
        build=zipped("cat/l.png", b"/etc/passwd", external_attr=0o120777 << 16),
        source="pets.zip",
    ),
    Bad(
        "H05-zip-device",
        ("'cat/d.png': is a device",),
        build=zipped("cat/d.png", external_attr=0o020666 << 16),
        source="pets.zip",
    ),
    Bad(
        "H05-tar-link",
        ("'cat/l.png': is a link to '/etc/passwd'",),
        build=tarred("cat/l.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        source="pets.tar.gz",
    ),
    Bad(
        "H05-tar-hard-link",
        ("is a link to 'cat/0.png'",),
        build=tarred("cat/l.png", type=tarfile.LNKTYPE, linkname="cat/0.png"),
        source="pets.tar.gz",
    ),
    Bad(
        "H05-tar-device",
        ("'cat/d.png': is a device",),
        build=tarred("cat/d.png", type=tarfile.CHRTYPE),
        source="pets.tar.gz",
    ),
    Bad(
        "H05-tar-pipe",
        ("'cat/p.png': is a pipe",),
        build=tarred("cat/p.png", type=tarfile.FIFOTYPE),
        source="pets.tar.gz",
    ),
    Bad(
        "H06-ratio", ("unpacks to over 64 MB, 100 times its own size", "name the folder"), build=bomb, source="pets.zip"
    ),
    Bad(
        "H06-ratio-of-a-tar",
        ("unpacks to over 64 MB, 100 times its own size",),
        build=bomb_in_a_tar,
        source="pets.tar.gz",
    ),
    Bad("H06-header", ("has a header of 300 MB",), build=header_bomb, source="pets.tar.gz"),
    Bad("H06-encrypted", ("pets.zip: is encrypted",), build=encrypted, source="pets.zip"),
    Bad("H06-truncated", ("the archive is damaged or incomplete",), build=cut_zip, source="pets.zip"),
    Bad("H06-truncated-tar", ("the archive is damaged or incomplete",), build=cut_tar, source="pets.tgz"),
    Bad(
        "H07-empty-folder",
        ("pets: no image is in it. Found: no files",),
        build=lambda folder: (folder / "pets").mkdir(),
    ),
    Bad("H07-empty-class", ("pets/cow: the class folder has no image",), build=empty_class),
    Bad("H07-junk-alone", ("no image is in it. Found: .DS_Store, notes.txt",), {".DS_Store": "x", "notes.txt": "milk"}),
    Bad("H07-junk-class", ("pets/cow: the class folder has no image",), with_pets(cow__notes_txt="milk")),
    Bad("H07-beside", ("1 images lie beside the class folders: x.png",), with_pets(x_png=PNG)),
    Bad("H07-too-deep", ("cat/brown is a folder inside a class folder",), with_pets(cat__brown__x_png=PNG)),
]


@pytest.mark.parametrize("bad", REFUSED, ids=lambda bad: bad.id)
def test_refused(bad: Bad, tmp_path: Path) -> None:
    bad.write(tmp_path)
    recipe = image_recipe_file(tmp_path, bad.source, data=bad.data)
    before, kept = on_disk(tmp_path), set(cache_folder().iterdir())
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, bad.source, data=bad.data)
    told = caught.value.render()
    assert not [words for words in bad.says if words not in told], told
    assert all(re.match(r"error: \S.*: .*[.?!]$", line) for line in told.splitlines()), told
    assert str(tmp_path) not in told
    assert on_disk(tmp_path) == before
    assert set(cache_folder().iterdir()) == kept, "nothing half-made stays in the cache"
    assert recipe.recipe.task == "image-generation"


THROUGH_CHECK = ["H01-truncated", "H03-too-many", "H04-zip-parent", "H05-tar-link", "H06-ratio", "H07-empty-class"]


@pytest.mark.parametrize("bad", [bad for bad in REFUSED if bad.id in THROUGH_CHECK], ids=lambda bad: bad.id)
def test_refused_by_the_command(bad: Bad, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad.write(tmp_path)
    image_recipe_file(tmp_path, bad.source, data=bad.data)
    before = on_disk(tmp_path)
    assert main(["check", str(tmp_path / "recipe.yaml")]) == 2
    shown = capfd.readouterr()
    assert "Traceback" not in shown.err
    assert not [words for words in bad.says if words not in shown.err], shown.err
    assert on_disk(tmp_path) == before


# ---- what is accepted, and said ----


def test_H01_broken_images_are_skipped_and_counted_where_the_recipe_says_so(tmp_path: Path) -> None:
    write_tree(tmp_path / "pets", with_pets(cat__e_png=b"", dog__t_png=PNG[:-30]))
    found = prepared(tmp_path, "pets", data="  broken: skip\n")
    assert sum(map(len, found.splits.values())) == 20
    told = "2 of 22 images cannot be used and were skipped: pets/cat/e.png, pets/dog/t.png"
    assert f"warning: {told}" in found.warnings
    assert found.report["images"]["skipped"] == 2


def test_H01_nothing_left_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "pets", {"a/1.png": b"", "b/1.png": b"x"})
    with pytest.raises(DataError, match=r"pets/a/1\.png: the file is empty"):
        prepared(tmp_path, "pets", data="  broken: skip\n")


def sixteen_bit() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65_535, 64).reshape(8, 8).astype(np.uint16))


def palette() -> Image.Image:
    """Index 0 is white and index 1 black: read as numbers, the picture would be nearly black all over."""
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.putpixel((3, 3), 1)
    return image


def half_clear() -> Image.Image:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((10, 10, 10, 255), (0, 0, 4, 8))
    return image


MODES: dict[str, tuple[bytes, str, int, int]] = {
    # what is stored, the note, and the grey value at (3, 3) and (7, 7)
    "L": (encoded(Image.new("L", (8, 8), 77)), "", 77, 77),
    "1": (encoded(Image.new("1", (8, 8), 1)), "of mode 1 read as grey", 255, 255),
    "P": (encoded(palette()), "of mode P read as grey", 0, 255),
    "RGB": (encoded(Image.new("RGB", (8, 8), (255, 0, 0))), "of mode RGB read as grey", 76, 76),
    "RGBA": (encoded(half_clear()), "with transparency (RGBA) put on white and read as grey", 10, 255),
    "LA": (encoded(half_clear().convert("LA")), "with transparency (LA) put on white and read as grey", 10, 255),
    "CMYK": (encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "TIFF"), "of mode CMYK read as grey", 255, 255),
    "16-bit": (encoded(sixteen_bit()), "of 16 bits a pixel read as 8-bit grey", 109, 255),
}


@pytest.mark.parametrize("mode", MODES)
def test_H02_modes_become_grey_as_they_look(mode: str) -> None:
    content, note, middle, corner = MODES[mode]
    changes = Changes()
    pixels = decoded(content, shape=Shape(8, 1), changes=changes)
    assert (pixels.shape, pixels.dtype) == ((1, 8, 8), np.uint8)
    assert (pixels[0, 3, 3], pixels[0, 7, 7]) == (middle, corner)
    assert changes.notes() == ([f"1 image {note}"] if note else [])


@pytest.mark.parametrize("mode", MODES)
def test_H02_modes_become_colour(mode: str) -> None:
    content, _, middle, corner = MODES[mode]
    pixels = decoded(content, shape=Shape(8, 3), changes=Changes())
    assert pixels.shape == (3, 8, 8)
    assert pixels[:, 3, 3].tolist() == ([255, 0, 0] if mode == "RGB" else [middle] * 3)
    assert mode == "RGB" or pixels[:, 7, 7].tolist() == [corner] * 3


def test_H02_mixed_modes_are_counted_in_the_report(tmp_path: Path) -> None:
    more: dict[str, bytes | str] = {
        f"cat/{mode}.tif" if mode == "CMYK" else f"cat/{mode}.png": each[0] for mode, each in MODES.items()
    }
    write_tree(tmp_path / "pets", {**PETS, **more})
    found = prepared(tmp_path, "pets")
    assert found.report["images"]["changed"] == {note: 1 for _, note, _, _ in MODES.values() if note}
    assert "1 image of mode CMYK read as grey" in found.report["notes"]


def test_H02_turned_and_moving_images(tmp_path: Path) -> None:
    picture = Image.fromarray(noise(1)[0])
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    changes = Changes()
    turned = decoded(encoded(picture, exif=exif), shape=Shape(8, 1), changes=changes)
    frames = encoded(picture.convert("P"), "GIF", save_all=True, append_images=[Image.new("P", (8, 8))])
    decoded(frames, shape=Shape(8, 1), changes=changes)
    assert np.array_equal(turned[0], np.asarray(picture)[::-1, ::-1])
    assert changes.counts["turned upright as their EXIF says"] == 1
    assert changes.counts["with several frames or pages: the first is taken"] == 1


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_H03_sizes_are_made_alike(resize: str, tmp_path: Path) -> None:
    """A wide picture: black, a white square in the middle, black."""
    wide = np.zeros((20, 60), np.uint8)
    wide[:, 20:40] = 255
    changes = Changes()
    pixels = decoded(encoded(wide), shape=Shape(10, 1, resize), changes=changes)[0]  # type: ignore[arg-type]
    white = {"crop": 100, "stretch": 33, "pad": 10}[resize]
    assert abs((pixels / 255).sum() - white) < 6
    assert changes.notes() == ["1 image larger than asked, shrunk"]
    assert changes.largest == (60, 20)


def test_H07_junk_is_ignored_and_counted(tmp_path: Path) -> None:
    junk: dict[str, bytes | str] = {
        ".DS_Store": "x",
        "cat/.DS_Store": "x",
        "notes.txt": "milk",
        "__MACOSX/cat/._0.png": b"x",
    }
    write_tree(tmp_path / "pets", {**PETS, **junk})
    found = prepared(tmp_path, "pets")
    assert found.labels.names == ("cat", "dog")
    assert found.report["notes"] == [
        "pets: 4 files that are no images ignored: .DS_Store, __MACOSX/cat/._0.png, cat/.DS_Store and 1 more"
    ]


def test_H06_limits_of_entries_and_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "pets.zip", PETS)
    for name, limit, says in (
        ("MOST_ENTRIES", 19, "more than 19 entries"),
        ("MOST_UNPACKED_BYTES", 100, "unpacks to more than"),
        ("MOST_ENTRY_BYTES", 10, "an image takes at most"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(image_archives, name, limit)
            with pytest.raises(DataError, match=says):
                list_archive(path, name="pets.zip")
    assert len(list_archive(path, name="pets.zip").files) == 20


# ---- whatever the bytes are ----


def test_a_zip_that_points_before_its_own_start_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "pets.zip"
    write_zip(path, {"a/1.png": PNG})
    content = path.read_bytes()
    path.write_bytes(content[:-6] + (int.from_bytes(content[-6:-2], "little") + 500).to_bytes(4, "little") + b"\0\0")
    with pytest.raises(DataError, match="damaged or incomplete"):
        list(archive_contents(path, list_archive(path, name=path.name).files, name=path.name))


def test_a_broken_bz2_stream_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "pets.tar.bz2"
    write_tar(path, {"a/1.png": PNG}, mode="w:bz2")
    content = path.read_bytes()
    path.write_bytes(content[:20] + bytes(len(content) - 20))
    with pytest.raises(DataError, match="damaged or incomplete"):
        list_archive(path, name=path.name)


@given(data=st.data())
def test_damaged_archives_are_refused_or_read_and_nothing_else(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kind = data.draw(st.sampled_from([".zip", ".tar", ".tar.gz"]))
    path = tmp_path_factory.mktemp("d") / f"pets{kind}"
    files = {"a/1.png": PNG, "b/2.png": PNG}
    write_zip(path, files) if kind == ".zip" else write_tar(path, files, mode="w:gz" if kind == ".tar.gz" else "w")
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content))
    try:
        listing = list_archive(path, name=path.name)
        assert all(isinstance(each, bytes) for each in archive_contents(path, listing.files, name=path.name))
    except FinetuneError as error:
        assert error.render().startswith("error: pets")


@given(data=st.data())
def test_damaged_images_are_refused_or_decoded_and_nothing_else(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]))
    content = bytearray(encoded(Image.fromarray(noise(1, size=12)[0]), kind))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=5)):
        content[place] = data.draw(st.integers(0, 255))
    try:
        pixels = decoded(bytes(content), shape=Shape(8, 1), changes=Changes())
    except Unreadable as error:
        assert error.what
    else:
        assert (pixels.shape, pixels.dtype) == ((1, 8, 8), np.uint8)
