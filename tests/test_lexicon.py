"""Lexicons: each layout gives the synonyms it states, and a faulty file is refused with its lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.data.lexicon import Lexicon, load_lexicon
from finetune.errors import DataError

REPOSITORY = Path(__file__).resolve().parent.parent
WORDNET = {
    "data.noun": "  1 a licence, which begins with two spaces\n"
    "00001740 03 n 03 car 0 motorcar 0 railway_car 1 001 @ 00001930 n 0000 | a vehicle\n"
    "00001930 03 n 02 in 0 indium 0 000 | a metal\n",
    "data.verb": "00001740 29 v 01 breathe 0 001 * 00005041 v 0000 01 + 02 00 | draw air\n",
    "data.adj": "00001740 00 s 02 galore(ip) 0 abounding 1 000 | plenty\n00002098 00 a 0b 1 0 a 0 "
    + " ".join(f"w{letter} 0" for letter in "abcdefghi")
    + " 000 | eleven words, counted in hexadecimal\n",
    "data.adv": "00001740 02 r 02 fast 0 quickly 0 000 | with speed\n",
}


def load(folder: Path, name: str, text: str | bytes) -> Lexicon:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return load_lexicon(name, base=folder)


def test_a_users_file_goes_one_way_and_gathers_lines(tmp_path: Path) -> None:
    lexicon = load(tmp_path, "mine.csv", "\ufeff# a note\ngood, fine ,decent\r\n\n便宜,实惠\ngood,very well\n")
    assert lexicon.of("good") == ("fine", "decent", "very well")
    assert lexicon.of("Good") == lexicon.of("GOOD") == lexicon.of("good")
    assert lexicon.of("fine") == ()
    assert lexicon.unspaced_words == {"便宜", "实惠"} and lexicon.longest_unspaced == 2


def test_tabs_separate_a_tsv(tmp_path: Path) -> None:
    assert load(tmp_path, "mine.tsv", "good\tfine, really\n").of("good") == ("fine, really",)


def test_only_classes_of_synonyms_are_read_from_cilin(tmp_path: Path) -> None:
    text = "Aa01A01= 人 士 人物\nAa01A02# 工人 农民\nAa01A03@ 人类\nAb01A01= 士 兵\n"
    lexicon = load(tmp_path, "cilin.txt", text)
    assert lexicon.of("人") == ("士", "人物")
    assert lexicon.of("士") == ("人", "人物", "兵")
    assert lexicon.of("工人") == lexicon.of("人类") == ()
    old = load(tmp_path, "old.txt", text.encode("gb18030"))
    assert old.synonyms == lexicon.synonyms
    assert "GB18030" in old.notes[0] and old.sha256 != lexicon.sha256


def test_words_of_one_synset_of_the_open_multilingual_wordnet_are_synonyms(tmp_path: Path) -> None:
    text = (
        "# Chinese\tcmn\thttps://example.org\tsome licence\n00001740-a\tcmn:lemma\t能干\n00002098-a\tcmn:lemma\t无能\n"
        "00001740-a\tcmn:lemma\t有能力+的\n00001740-a\tcmn:def\t0\t有本事\n00003131-n\tlemma\tice_cream\n"
        "00003131-n\tlemma\tgelato\n"
    )
    lexicon = load(tmp_path, "wn-data-cmn.tab", text)
    assert lexicon.synonyms == {"能干": ("有能力的",), "有能力的": ("能干",), "gelato": ("ice cream",)}


def test_a_wordnet_folder_is_read(tmp_path: Path) -> None:
    for name, text in WORDNET.items():
        (tmp_path / name).write_text(text)
    lexicon = load_lexicon(str(tmp_path), base=Path("/nowhere"))
    assert lexicon.of("car") == ("motorcar", "railway car") and lexicon.of("Abounding") == ("galore",)
    assert lexicon.of("quickly") == ("fast",)
    assert len(lexicon.of("wa")) == 10 and "1" in lexicon.of("wa")
    for never_looked_up in ("in", "1", "a", "railway car", "breathe"):
        assert lexicon.of(never_looked_up) == ()


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "good,fine\nbad\n", "a.csv:2: one word, no synonym. Found: bad. Write: good,fine,decent"),
        ("a.csv", "好，不错\n", "a.csv:1: one word, no synonym. Found: 好，不错"),
        ("a.csv", "good,,fine\n", "a.csv:1: an empty field. Found: good,,fine"),
        ("a.csv", ",fine\n", "a.csv:1: an empty field"),
        ("a.csv", "New York,NYC\n", "a.csv:1: 'New York' is not one word"),
        ("a.csv", "good,fine,good\n", "a.csv:1: 'good' is its own synonym"),
        ("a.csv", 'good,"fine\n', "a.csv:1: a quote is wrong"),
        ("a.csv", "", "a.csv holds no synonyms"),
        ("a.csv", "# only a note\n", "a.csv holds no synonyms"),
        ("a.csv", b"good,fine\ncaf\xe9,bar\n", "a.csv:2: byte 0xE9 at column 4 is not UTF-8"),
        ("a.txt", "Aa01A01= 人 士\n人 士\n", "a.txt:2: no Cilin code. Found: 人 士"),
        ("a.txt", "Aa01A03@ 人类\n", "a.txt holds no synonyms"),
        ("a.tab", "00001740-a\tcmn:lemma\n", "a.tab:1: not a synset, a type and a word"),
        ("a.gz.csv", b"\xff\xfe\x00", "a.gz.csv"),
    ],
)
def test_a_faulty_lexicon_is_refused(tmp_path: Path, name: str, text: str | bytes, told: str) -> None:
    with pytest.raises(DataError) as refused:
        load(tmp_path, name, text)
    assert told in str(refused.value)


def test_all_faulty_lines_are_shown_together(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        load(tmp_path, "a.csv", "good\nbad\n")
    assert [problem.where for problem in refused.value.problems] == ["a.csv:1", "a.csv:2"]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"augmentation\.lexicon: no such file or folder: nope\.csv"):
        load_lexicon("nope.csv", base=tmp_path)
    with pytest.raises(DataError, match=r"is a folder without data\.noun, data\.verb"):
        load_lexicon(str(tmp_path), base=tmp_path)


def test_a_damaged_wordnet_line_is_named(tmp_path: Path) -> None:
    for name, text in WORDNET.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "data.adv").write_text("quickly fast\n")
    with pytest.raises(DataError, match=r"data\.adv:1: not a synset of WordNet"):
        load_lexicon(str(tmp_path), base=tmp_path)


def test_the_example_lexicon_is_sound() -> None:
    lexicon = load_lexicon("data/synonyms.csv", base=REPOSITORY)
    assert lexicon.of("room") and lexicon.of("房间") and not lexicon.notes
