"""Writers are built, loaded and saved whole, and their tokenizers give every text back as it was."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import POSITIONS, tiny_bert_folder, tiny_byte_tokenizer, tiny_gpt2_folder, tiny_writer_folder
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    LEDConfig,
    LogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from finetune.errors import DataError, ModelError, RecipeError
from finetune.model_folder import ModelFolder
from finetune.pretrained import NO_LIMIT_TOKENS, save_model
from finetune.recipe_model import CausalFromScratch, Model, Seq2SeqFromScratch
from finetune.scratch_tokenizers import train_writer_tokenizer
from finetune.writers import SHAPES, WriterKind, build_writer, largest_context, load_writer, load_writer_tokenizer

KINDS: dict[str, WriterKind] = {"gpt2": "causal", "llama": "causal", "t5": "seq2seq", "bart": "seq2seq"}
TEXTS = ("Hark! Who goes there?\n\n\tNAY,  answer me.", "床前明月光，疑是地上霜。", "he don't know 3,141 things " * 3)
HEADLESS = "no language-model head. Missing: lm_head.weight. Found: "


def _folder(path: Path) -> ModelFolder:
    return ModelFolder(path=path, origin="folder")


def _build(path: Path, kind: WriterKind, *, seed: int = 13, **settings: Any) -> tuple[PreTrainedModel, list[str]]:
    tokenizer = load_writer_tokenizer(_folder(path), kind=kind)
    model = Model(name=str(path), **settings)
    return build_writer(model, folder=_folder(path), tokenizer=tokenizer, kind=kind, seed=seed)


def _section(architecture: str, **changes: object) -> CausalFromScratch | Seq2SeqFromScratch:
    section = CausalFromScratch if KINDS[architecture] == "causal" else Seq2SeqFromScratch
    sizes = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return section.model_validate(
        {"architecture": architecture, **sizes, "intermediate_size": 32, "max_position_embeddings": 40, **changes}
    )


def _from_scratch(
    section: CausalFromScratch | Seq2SeqFromScratch, *, seed: int = 13, attention_dropout: float | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = train_writer_tokenizer(TEXTS, section)
    model = Model(from_scratch=section, attention_dropout=attention_dropout)
    kind = KINDS[section.architecture]
    return build_writer(model, folder=None, tokenizer=tokenizer, kind=kind, seed=seed)[0], tokenizer


def _logits(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    rows = torch.tensor([ids])
    both = {"labels": rows} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model.eval()(input_ids=rows, **both).logits


def _edit(folder: Path, file: str = "config.json", **changes: object) -> None:
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps({**content, **changes}), encoding="utf-8")


def _edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


# From scratch


@pytest.mark.parametrize("architecture", KINDS)
@pytest.mark.parametrize("tokenizer_kind", ["bytes", "characters"])
def test_from_scratch_goes_to_disk_and_back(tmp_path: Path, architecture: str, tokenizer_kind: str) -> None:
    model, tokenizer = _from_scratch(_section(architecture, tokenizer=tokenizer_kind))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    save_model(model, tokenizer, tmp_path / "best", {"finetune.json": "{}"})
    loaded, reader = load_writer(tmp_path / "best")
    ids = tokenizer(TEXTS[0])["input_ids"][:12]
    assert reader(list(TEXTS))["input_ids"] == tokenizer(list(TEXTS))["input_ids"]
    assert torch.equal(_logits(loaded, ids), _logits(model, ids))
    assert not loaded.training
    assert largest_context(loaded.config, reader) == 40


def test_every_architecture_of_the_recipe_has_its_shape() -> None:
    fields = (CausalFromScratch.model_fields, Seq2SeqFromScratch.model_fields)
    names = [name for field in fields for name in get_args(field["architecture"].annotation)]
    assert sorted(names) == sorted(SHAPES) == sorted(KINDS)


@pytest.mark.parametrize("architecture", KINDS)
def test_the_weights_depend_on_the_seed_alone(architecture: str) -> None:
    section = _section(architecture)
    torch.manual_seed(99)
    one, _ = _from_scratch(section, seed=1)
    torch.rand(7)
    same, _ = _from_scratch(section, seed=1)
    other, _ = _from_scratch(section, seed=2)
    theirs = same.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())
    assert not torch.equal(one.get_input_embeddings().weight, other.get_input_embeddings().weight)


SIZES: dict[str, tuple[str, int, dict[str, float]]] = {
    # A tensor that every layer has once, how many layers there are in all, where the dropout is kept.
    "gpt2": ("attn.c_attn.weight", 3, {"resid_pdrop": 0.25, "embd_pdrop": 0.25, "attn_pdrop": 0.25}),
    "llama": ("self_attn.q_proj.weight", 3, {"attention_dropout": 0.25}),
    "t5": ("SelfAttention.q.weight", 6, {"dropout_rate": 0.25}),
    "bart": ("self_attn.q_proj.weight", 6, {"dropout": 0.25, "attention_dropout": 0.25}),
}


@pytest.mark.parametrize("architecture", SIZES)
def test_the_sizes_are_those_of_the_recipe(architecture: str) -> None:
    section = _section(architecture, num_hidden_layers=3, num_attention_heads=4, intermediate_size=24, dropout=0.25)
    model, tokenizer = _from_scratch(section)
    part, layers, dropout = SIZES[architecture]
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert len([name for name in shapes if name.endswith(part)]) == layers
    assert len([name for name, shape in shapes.items() if 24 in shape and len(shape) == 2]) >= 2 * layers
    assert model.get_input_embeddings().weight.shape == (len(tokenizer), 16)
    assert model.config.num_attention_heads == 4
    assert {name: getattr(model.config, name) for name in dropout} == dropout


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bart"])
def test_attention_dropout_is_overridden(architecture: str) -> None:
    model, _ = _from_scratch(_section(architecture, dropout=0.25), attention_dropout=0.0)
    field = "attn_pdrop" if architecture == "gpt2" else "attention_dropout"
    assert getattr(model.config, field) == 0


def test_t5_has_one_dropout_for_everything() -> None:
    with pytest.raises(ModelError, match=r"model.attention_dropout: t5 has no attention dropout"):
        _from_scratch(_section("t5"), attention_dropout=0.0)


@pytest.mark.parametrize("architecture", KINDS)
def test_plain_transformers_knows_where_a_text_starts_and_ends(tmp_path: Path, architecture: str) -> None:
    model, tokenizer = _from_scratch(_section(architecture))
    end, padding = tokenizer.eos_token_id, tokenizer.pad_token_id
    assert end != padding
    save_model(model, tokenizer, tmp_path / "best", {})
    auto = AutoModelForCausalLM if KINDS[architecture] == "causal" else AutoModelForSeq2SeqLM
    loaded = auto.from_pretrained(tmp_path / "best")
    reader = AutoTokenizer.from_pretrained(tmp_path / "best", padding_side="left")
    for told in (loaded.config, loaded.generation_config):
        assert (told.eos_token_id, told.pad_token_id, told.bos_token_id) == (end, padding, end)
        if KINDS[architecture] == "seq2seq":
            assert told.decoder_start_token_id == (padding if architecture == "t5" else end)
    assert getattr(loaded.generation_config, "forced_eos_token_id", None) is None
    batch = reader(["Hark! Who", "Nay"], padding=True, return_tensors="pt")
    written = loaded.generate(**batch, max_new_tokens=4, do_sample=False, logits_processor=[_FirstEnds(end)])
    assert written[0, -4:].tolist() == [end, padding, padding, padding]
    assert end not in written[1, -4:]


class _FirstEnds(LogitsProcessor):
    """The first text of a batch ends at once, the others never."""

    def __init__(self, end: int) -> None:
        self.end = end

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, self.end] = -torch.inf
        scores[0, self.end] = 1e9
        return scores


def test_neither_folder_nor_from_scratch_is_an_error() -> None:
    with pytest.raises(ModelError, match="neither a folder nor from_scratch"):
        build_writer(Model(name="x"), folder=None, tokenizer=tiny_byte_tokenizer(), kind="causal", seed=1)


@pytest.mark.parametrize(("architecture", "kind"), [("t5", "causal"), ("gpt2", "seq2seq")])
def test_the_shape_of_another_task_is_an_error(architecture: str, kind: WriterKind) -> None:
    with pytest.raises(ModelError, match=f"FromScratch builds no {kind} model"):
        build_writer(
            Model(from_scratch=_section(architecture)), folder=None, tokenizer=tiny_byte_tokenizer(), kind=kind, seed=1
        )


# Tokenizers from scratch


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=100, deadline=None)
def test_bytes_give_back_every_text(architecture: str, text: str) -> None:
    tokenizer = _trained(architecture)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


TRAINED: dict[str, PreTrainedTokenizerFast] = {}


def _trained(architecture: str) -> PreTrainedTokenizerFast:
    if architecture not in TRAINED:
        TRAINED[architecture] = train_writer_tokenizer(TEXTS, _section(architecture))
    return TRAINED[architecture]


@pytest.mark.parametrize("architecture", ["gpt2", "bart"])
def test_characters_give_back_what_they_know(architecture: str) -> None:
    tokenizer = train_writer_tokenizer(TEXTS, _section(architecture, tokenizer="characters"))
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) == len(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids
    unknown = tokenizer("ℵ\r\nH", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(unknown) == ["<unk>", "<unk>", "\n", "H"]


def test_the_most_frequent_characters_are_known() -> None:
    section = _section("gpt2", tokenizer="characters", vocab_size=10)
    tokenizer = train_writer_tokenizer(["aab b\n\nzzzz", "A甲乙"], section)
    assert tokenizer.convert_ids_to_tokens(list(range(10))) == [
        "<pad>", "<|endoftext|>", "<unk>", "z", "\n", "a", "b", " ", "A", "乙",
    ]  # fmt: skip
    assert len(tokenizer) == 10


@pytest.mark.parametrize("tokenizer_kind", ["bytes", "characters"])
def test_end_and_padding_are_two_tokens(tokenizer_kind: str) -> None:
    decoder = train_writer_tokenizer(TEXTS, _section("gpt2", tokenizer=tokenizer_kind))
    both = train_writer_tokenizer(TEXTS, _section("t5", tokenizer=tokenizer_kind))
    for tokenizer in (decoder, both):
        assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<pad>")
        assert tokenizer.convert_tokens_to_ids(["<pad>", "<|endoftext|>"]) == [0, 1]
        assert tokenizer.unk_token == ("<unk>" if tokenizer_kind == "characters" else None)
        assert tokenizer("Hark<|endoftext|>", add_special_tokens=False)["input_ids"][-1] == 1
        # A text that only speaks of the token does not end there.
        assert 1 not in tokenizer("<|endoftext|>", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert decoder.bos_token == decoder.eos_token
    assert decoder("Hark")["input_ids"] == both("Hark", add_special_tokens=False)["input_ids"]
    assert both("Hark")["input_ids"] == [*decoder("Hark")["input_ids"], 1]


def test_pairs_seen_often_become_tokens_and_the_vocabulary_is_bounded() -> None:
    tokenizer = train_writer_tokenizer(["lower low lowest slow " * 9], _section("gpt2", vocab_size=264))
    assert len(tokenizer) == 264
    assert {"low", "Ġlow"} & set(tokenizer.tokenize("lower low"))
    once = train_writer_tokenizer(["abcdefgh"], _section("gpt2", vocab_size=300))
    assert len(once) == 258


def test_tokenizers_are_the_same_in_any_order_and_any_process(tmp_path: Path) -> None:
    maker = random.Random(7)
    # Many pairs are equally frequent: ties must not go by hash order.
    texts = ["".join(maker.choice("abcdefgh   \n电影好") for _ in range(80)) for _ in range(60)]
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    backwards = [
        train_writer_tokenizer(iter(reversed(texts)), CausalFromScratch(tokenizer=kind, vocab_size=600))
        for kind in ("bytes", "characters")
    ]
    code = (
        "import json, sys; from finetune.recipe_model import CausalFromScratch\n"
        "from finetune.scratch_tokenizers import train_writer_tokenizer\n"
        "texts = json.load(open(sys.argv[1], encoding='utf-8'))\n"
        "sections = [CausalFromScratch(tokenizer=kind, vocab_size=600) for kind in ('bytes', 'characters')]\n"
        "made = [train_writer_tokenizer(texts, section).backend_tokenizer for section in sections]\n"
        "print(json.dumps([backend.to_str() for backend in made]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "texts.json")], cwd=Path(__file__).resolve().parent.parent,
        env={**os.environ, "PYTHONHASHSEED": "5", "TOKENIZERS_PARALLELISM": "false"}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [tokenizer.backend_tokenizer.to_str() for tokenizer in backwards]
    assert len(backwards[0]) > 400


@pytest.mark.parametrize("tokenizer_kind", ["bytes", "characters"])
def test_no_text_no_tokenizer(tokenizer_kind: str) -> None:
    for texts in ([], ["", ""]):
        with pytest.raises(DataError, match="no text to learn a tokenizer from"):
            train_writer_tokenizer(texts, _section("gpt2", tokenizer=tokenizer_kind))


def test_a_vocabulary_must_hold_every_byte() -> None:
    with pytest.raises(RecipeError, match=r"vocab_size: 257 is too few for the 256 bytes and 2 special.*258 or more"):
        train_writer_tokenizer(TEXTS, _section("gpt2", vocab_size=257))
    assert len(train_writer_tokenizer(TEXTS, _section("gpt2", vocab_size=258))) == 258


# From a folder


@pytest.mark.parametrize("architecture", KINDS)
def test_a_stored_writer_comes_back_bit_for_bit(tmp_path: Path, architecture: str) -> None:
    path = tiny_writer_folder(tmp_path / "base", architecture)
    model, notes = _build(path, KINDS[architecture])
    assert notes == []
    save_model(model, load_writer_tokenizer(_folder(path)), tmp_path / "best", {})
    loaded, tokenizer = load_writer(tmp_path / "best")
    ids = tokenizer("a good film")["input_ids"]
    assert torch.equal(_logits(loaded, ids), _logits(model, ids))
    names = {file.name for file in (tmp_path / "best").iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= names
    assert str(tmp_path) not in "".join(file.read_text(encoding="utf-8") for file in (tmp_path / "best").glob("*.json"))


@pytest.mark.parametrize("architecture", KINDS)
def test_a_tied_base_model_has_all_it_needs(tmp_path: Path, architecture: str) -> None:
    whole = tiny_writer_folder(tmp_path / "whole", architecture, tie_word_embeddings=True)
    base = tiny_writer_folder(tmp_path / "base", architecture, head=False, tie_word_embeddings=True)
    model, notes = _build(base, KINDS[architecture])
    assert len(notes) == 1 and "has no head of its own: words are chosen by its input embeddings" in notes[0]
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.architectures != _build(whole, KINDS[architecture])[0].config.architectures
    other, _ = _build(base, KINDS[architecture], seed=99)
    assert torch.equal(_logits(model, [5, 6, 7]), _logits(other, [5, 6, 7]))


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bart"])
def test_an_untied_base_model_lacks_its_head(tmp_path: Path, architecture: str) -> None:
    path = tiny_writer_folder(tmp_path / "base", architecture, head=False, tie_word_embeddings=False)
    for load in (lambda: _build(path, KINDS[architecture]), lambda: load_writer(path)):
        with pytest.raises(ModelError, match=HEADLESS):
            load()


def test_the_first_gpt2_files_are_whole(tmp_path: Path) -> None:
    """Those of the Hub lack the prefix and hold masks that no release reads any more."""
    path = tiny_writer_folder(tmp_path / "gpt2")
    before = _logits(load_writer(path)[0], [5, 6, 7])
    tensors = {name.removeprefix("transformer."): t for name, t in load_file(path / "model.safetensors").items()}
    save_file({**tensors, "h.0.attn.bias": torch.ones(1, 1, 64, 64)}, path / "model.safetensors")
    assert _build(path, "causal")[1] == []
    assert torch.equal(_logits(load_writer(path)[0], [5, 6, 7]), before)


def test_tensors_without_a_place_are_named_and_no_finished_model_has_any(tmp_path: Path) -> None:
    path = tiny_writer_folder(tmp_path / "m")
    _edit_weights(path, lambda tensors: tensors.update({"value_head.weight": torch.ones(1, 16)}))
    assert _build(path, "causal")[1] == ["left out: value_head.weight, for which GPT2LMHeadModel has no place"]
    with pytest.raises(ModelError, match=r"not those of GPT2LMHeadModel. Missing: none. Not expected: value_head"):
        load_writer(path)


@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "F16"), (torch.bfloat16, "BF16")])
def test_d19_half_precision_is_loaded_as_float32_and_noted(tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    path = tiny_writer_folder(tmp_path / "m", "llama")
    _edit_weights(path, lambda tensors: tensors.update({key: value.to(dtype) for key, value in tensors.items()}))
    _edit(path, dtype=str(dtype).removeprefix("torch."))
    model, notes = _build(path, "causal")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert notes == [f"weights are stored as {name}, loaded and trained as float32"]


# Heads for another task


def _saved(model: PreTrainedModel, path: Path) -> Path:
    model.save_pretrained(path)
    tiny_byte_tokenizer().save_pretrained(path)
    return path


def _bert_config(**changes: object) -> BertConfig:
    sizes: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertConfig(vocab_size=300, **{**sizes, **changes})


def _t5_encoder() -> PreTrainedModel:
    return T5EncoderModel(T5Config(vocab_size=300, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))


def _bart_classifier() -> PreTrainedModel:
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return BartForSequenceClassification(
        BartConfig(vocab_size=300, d_model=8, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=16, **sizes)
    )


OTHER_TASKS: list[tuple[str, Callable[[Path], Path], WriterKind, str]] = [
    ("D11-bert", lambda p: tiny_bert_folder(p, num_labels=3), "causal",
     "has a head for another task (BertForSequenceClassification). Task text-generation needs a decoder"),
    ("D11-bert-seq2seq", lambda p: tiny_bert_folder(p, num_labels=3), "seq2seq",
     "has a head for another task (BertForSequenceClassification). Task seq2seq needs an encoder-decoder"),
    ("D11-gpt2", lambda p: tiny_gpt2_folder(p, num_labels=3), "causal",
     "has a head for another task (GPT2ForSequenceClassification)"),
    ("D11-bart", lambda p: _saved(_bart_classifier(), p), "seq2seq",
     "has a head for another task (BartForSequenceClassification)"),
    ("masked", lambda p: _saved(BertForMaskedLM(_bert_config()), p), "causal",
     "has a head for another task (BertForMaskedLM)"),
    ("t5-encoder", lambda p: _saved(_t5_encoder(), p), "seq2seq", "has a head for another task (T5EncoderModel)"),
    ("encoder", tiny_bert_folder, "causal", "model_type 'bert' is an encoder: it only reads"),
    ("as-decoder", lambda p: _saved(BertLMHeadModel(_bert_config(is_decoder=True)), p), "causal",
     "model_type 'bert' is an encoder: it only reads"),
    ("encoder-seq2seq", tiny_bert_folder, "seq2seq", "model_type 'bert' has no head for task seq2seq"),
    ("t5-causal", lambda p: tiny_writer_folder(p, "t5"), "causal",
     "has a head for another task (T5ForConditionalGeneration). Task text-generation needs a decoder"),
    ("bart-base-causal", lambda p: tiny_writer_folder(p, "bart", head=False), "causal",
     "model_type 'bart' is an encoder-decoder"),
    ("gpt2-seq2seq", tiny_writer_folder, "seq2seq", "model_type 'gpt2' has no head for task seq2seq"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "kind", "message"), [case[1:] for case in OTHER_TASKS], ids=[case[0] for case in OTHER_TASKS]
)
def test_d11_a_model_for_another_task_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], kind: WriterKind, message: str
) -> None:
    path = make(tmp_path / "m")
    with pytest.raises(ModelError) as caught:
        load_writer_tokenizer(_folder(path), kind=kind)
    assert message in str(caught.value)
    with pytest.raises(ModelError) as caught:
        build_writer(Model(name="m"), folder=_folder(path), tokenizer=tiny_byte_tokenizer(), kind=kind, seed=1)
    assert message in str(caught.value)


@pytest.mark.parametrize("make", [case[1] for case in OTHER_TASKS if case[0].startswith("D11")])
def test_d11_a_classifier_is_no_finished_writer(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(ModelError, match=r"has a head for another task \(\w+ForSequenceClassification\)"):
        load_writer(make(tmp_path / "m"))


def test_d11_a_classifier_that_hides_its_name_is_known_by_its_head(tmp_path: Path) -> None:
    path = tiny_gpt2_folder(tmp_path / "m", num_labels=3)
    _edit(path, architectures=None)
    for load in (lambda: _build(path, "causal"), lambda: load_writer(path)):
        with pytest.raises(ModelError, match=r"has a head for another task \(score.weight\)"):
            load()


# Bad folders


def _no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def _empty_tokenizer(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["vocab"] = {}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _drop(part: str) -> Callable[[Path], None]:
    return lambda f: _edit_weights(f, lambda tensors: [tensors.pop(name) for name in list(tensors) if part in name])


def _poison(value: float) -> Callable[[Path], None]:
    return lambda f: _edit_weights(f, lambda tensors: tensors["transformer.ln_f.bias"].fill_(value))


BAD_FOLDERS: list[tuple[str, Callable[[Path], object], str]] = [
    ("D03", lambda f: (f / "config.json").unlink(), "no config.json"),
    ("D04", lambda f: _edit(f, model_type="gpt3"), "unknown model_type 'gpt3' in config.json (transformers "),
    ("D05", lambda f: (f / "model.safetensors").unlink(), "no weights (model.safetensors). Found: config.json"),
    ("D06", lambda f: (f / "model.safetensors").write_bytes(b"\x09"), "model.safetensors is incomplete (1 of"),
    ("D08", _no_tokenizer, "no tokenizer files. Looked for: tokenizer.json"),
    ("D08-empty", _empty_tokenizer, "the tokenizer knows no words"),
    ("D14", lambda f: _edit(f, n_embd=32), "transformer.h.0.attn.c_attn.bias is [48], config.json says [96]"),
    ("D16", _pickled, "only safetensors are loaded. Found: pytorch_model.bin"),
    ("D17", lambda f: _edit(f, auto_map={"AutoModelForCausalLM": "evil.Model"}), "run code of its own (auto_map)"),
    ("D18", lambda f: _edit(f, "tokenizer_config.json", vocab_file=".env"), "'vocab_file' names '.env'"),
    ("D20", _poison(float("nan")), "transformer.ln_f.bias holds NaN or infinity"),
    ("D20-inf", _poison(float("inf")), "transformer.ln_f.bias holds NaN or infinity"),
    ("D22", lambda f: (f / "adapter_config.json").write_text("{}"), "holds a PEFT adapter, not a whole model"),
    ("part", _drop(".h.1."), "the weights lack 12 tensors of GPT2LMHeadModel. Missing: transformer.h.1."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "message"), [case[1:] for case in BAD_FOLDERS], ids=[case[0] for case in BAD_FOLDERS]
)
def test_a_bad_writer_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tiny_writer_folder(tmp_path / "m")
    load_writer(path)
    damage(path)
    with pytest.raises(ModelError) as caught:
        load_writer(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("damage", "message"),
    [case[1:] for case in BAD_FOLDERS if case[0] in {"D04", "D08", "D08-empty", "D14", "D20", "part"}],
)
def test_training_refuses_them_too(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    path = tiny_writer_folder(tmp_path / "m")
    damage(path)
    with pytest.raises(ModelError) as caught:
        _build(path, "causal")
    assert message in str(caught.value)


@pytest.mark.parametrize("architecture", KINDS)
def test_d09_ids_beyond_the_model(tmp_path: Path, architecture: str) -> None:
    path = tiny_writer_folder(tmp_path / "m", architecture, vocab_size=100)
    with pytest.raises(ModelError, match="tokenizer has id 258, model has 100"):
        load_writer_tokenizer(_folder(path))


def test_d17_no_code_of_the_folder_runs(tmp_path: Path) -> None:
    path, marker = tiny_writer_folder(tmp_path / "m"), tmp_path / "ran"
    (path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nfrom transformers import GPT2Config as Config\n")
    _edit(path, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(ModelError, match=r"asks to run code of its own \(auto_map\); refused"):
        load_writer(path)
    # A folder that nobody checked is built by transformers' own classes.
    assert type(_build(path, "causal")[0]).__name__ == "GPT2LMHeadModel"
    assert not marker.exists()


# Ends, padding, starts


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    path = tiny_writer_folder(tmp_path / "m", tokenizer=tiny_byte_tokenizer(eos=None))
    with pytest.raises(ModelError, match=r"no end-of-text token \(eos_token\). Special tokens: .*<unk>.*never end"):
        load_writer_tokenizer(_folder(path))


@pytest.mark.parametrize(("unknown", "padding"), [("<unk>", "<unk>"), (None, "</s>"), ("</s>", "</s>")])
def test_padding_borrows_a_token_and_the_embeddings_stay(tmp_path: Path, unknown: str | None, padding: str) -> None:
    tokenizer = tiny_byte_tokenizer(pad=None)
    tokenizer.unk_token = unknown
    path = tiny_writer_folder(tmp_path / "m", "llama", tokenizer=tokenizer, pad_token_id=None)
    ours = load_writer_tokenizer(_folder(path))
    assert (ours.pad_token, ours.eos_token) == (padding, "</s>")
    model, _ = _build(path, "causal")
    assert model.get_input_embeddings().weight.shape[0] == 259 == len(ours)
    # Were it named in the model, its embedding would never be learnt, the end-of-text token's least of all.
    assert model.config.pad_token_id is None
    assert model.get_input_embeddings().padding_idx is None
    assert model.generation_config.pad_token_id == ours.pad_token_id


def test_nothing_is_cut_or_padded_and_the_side_is_the_folders(tmp_path: Path) -> None:
    tokenizer = tiny_byte_tokenizer()
    tokenizer.padding_side = "left"
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=9, direction="left")
    path = tiny_writer_folder(tmp_path / "m", tokenizer=tokenizer)
    ours = load_writer_tokenizer(_folder(path))
    assert len(ours.backend_tokenizer.encode("a good film").ids) == 11
    assert ours.padding_side == "left"


def test_generation_stops_at_the_end_that_is_learnt(tmp_path: Path) -> None:
    path = tiny_writer_folder(tmp_path / "m")
    _edit(path, "generation_config.json", eos_token_id=[7, 9], do_sample=True, temperature=0.6, max_length=77)
    model, notes = _build(path, "causal")
    assert notes == ["generation also stops at </s>, the tokenizer's end-of-text token"]
    save_model(model, load_writer_tokenizer(_folder(path)), tmp_path / "best", {})
    kept = load_writer(tmp_path / "best")[0].generation_config
    assert (kept.eos_token_id, kept.do_sample, kept.temperature, kept.max_length) == ([1, 7, 9], True, 0.6, 77)


def test_settings_that_could_not_be_saved_are_left_out(tmp_path: Path) -> None:
    path = tiny_writer_folder(tmp_path / "m")
    _edit(path, "generation_config.json", temperature=0.6, eos_token_id=[7])
    model, notes = _build(path, "causal")
    assert notes[1:] == ["generation_config.json contradicts itself: only its token ids are kept"]
    save_model(model, load_writer_tokenizer(_folder(path)), tmp_path / "best", {})
    kept = load_writer(tmp_path / "best")[0].generation_config
    assert (kept.eos_token_id, kept.temperature) == ([1, 7], None)


def test_a_decoder_must_know_where_to_start(tmp_path: Path) -> None:
    path = tiny_writer_folder(tmp_path / "m", "t5")
    _edit(path, decoder_start_token_id=None)
    assert _build(path, "seq2seq")[0].config.decoder_start_token_id == 0
    (path / "generation_config.json").unlink()
    with pytest.raises(ModelError, match=r"config.json has no decoder_start_token_id"):
        _build(path, "seq2seq")


# The longest sequence


@pytest.mark.parametrize("architecture", ["gpt2", "bart"])
def test_the_largest_context_really_fits_and_no_larger_one(tmp_path: Path, architecture: str) -> None:
    model, tokenizer = load_writer(tiny_writer_folder(tmp_path / "m", architecture))
    most = largest_context(model.config, tokenizer)
    assert most == POSITIONS
    _logits(model, [5] * most)
    with pytest.raises((IndexError, RuntimeError)):
        _logits(model, [5] * (most + 1))


def test_the_tokenizer_may_limit_the_context_and_relative_positions_do_not(tmp_path: Path) -> None:
    unlimited, short = tiny_byte_tokenizer(max_length=10**30), tiny_byte_tokenizer(max_length=32)
    # The Hub's T5 files state n_positions, which no release heeds.
    assert largest_context(T5Config(n_positions=512), unlimited) == NO_LIMIT_TOKENS
    assert largest_context(T5Config(), short) == 32
    assert largest_context(BartConfig(max_position_embeddings=99), unlimited) == 99
    assert (
        largest_context(LEDConfig(max_encoder_position_embeddings=64, max_decoder_position_embeddings=8), unlimited)
        == 8
    )
