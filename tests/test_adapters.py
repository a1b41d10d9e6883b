"""Adapters: what is trained, what is saved, and that it comes back to the bit, here and with peft alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from tiny_fits import tiny_bert, tiny_documents, tiny_plan
from tiny_models import (
    tiny_bert_folder,
    tiny_distilbert_folder,
    tiny_gpt2_folder,
    tiny_roberta_folder,
    tiny_writer_folder,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from finetune.adapter_base import Base
from finetune.adapters import (
    grow_embeddings,
    load_trained,
    merge,
    rate_note,
    save_trained,
    target_modules,
    whole_modules,
    wrap,
)
from finetune.errors import EnvironmentFault, ModelError, RecipeError, Stopped
from finetune.learner import refuse_arithmetic, save_with_settings
from finetune.model_folder import ModelFolder
from finetune.models import build_classifier, load_classifier, load_tokenizer
from finetune.pretrained import _four_bits
from finetune.recipe_adapter import Adapter
from finetune.recipe_file import check_recipe
from finetune.recipe_model import EncoderModel, Model
from finetune.scores.fit_advice import _higher_rate
from finetune.scores.fit_course import FitSettings, fit_settings
from finetune.training.checkpoints import newest_checkpoint
from finetune.training.plan import FitPlan
from finetune.training.trainer import fit
from finetune.writers import build_writer, load_writer, load_writer_tokenizer
from finetune.yaml_text import YamlText

ENCODERS: dict[str, Any] = {
    "bert": tiny_bert_folder, "roberta": tiny_roberta_folder, "distilbert": tiny_distilbert_folder,
}  # fmt: skip
SHAPES = [*ENCODERS, "gpt2", "llama", "t5"]
LABELS = ["bad", "good", "so so"]
IDS = torch.arange(5, 13).reshape(2, 4)


def base_folder(path: Path, shape: str) -> Path:
    made: Path = ENCODERS[shape](path) if shape in ENCODERS else tiny_writer_folder(path, shape)  # type: ignore[arg-type]
    return made


def adapted(base: Path, shape: str, adapter: Adapter, *, seed: int = 3) -> tuple[PreTrainedModel, Any, list[str]]:
    """A model of the recipe's making, its tokenizer, and the notes."""
    folder = ModelFolder(base, origin="folder")
    if shape in ENCODERS:
        tokenizer = load_tokenizer(folder)
        model, notes = build_classifier(
            EncoderModel(name="base"), folder=folder, tokenizer=tokenizer, label_names=LABELS, multi_label=False,
            seed=seed, adapter=adapter,
        )  # fmt: skip
    else:
        kind: Any = "seq2seq" if shape == "t5" else "causal"
        tokenizer = load_writer_tokenizer(folder, kind=kind)
        model, notes = build_writer(
            Model(name="base"), folder=folder, tokenizer=tokenizer, kind=kind, seed=seed, adapter=adapter
        )
    return model.train(False), tokenizer, notes


def shake(model: PreTrainedModel) -> None:
    """What a training would do: every weight that may, moves."""
    torch.manual_seed(11)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))


def saved(model: PreTrainedModel, tokenizer: Any, folder: Path, *, base: Path, kind: str = "lora") -> Path:
    origin = Base.of(ModelFolder(base, origin="folder"), name="base")
    save_with_settings(model, tokenizer, folder, settings={"adapter": {"kind": kind}}, base=origin)
    return folder


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    found: torch.Tensor = model.train(False)(input_ids=IDS, attention_mask=torch.ones_like(IDS), **more).logits
    return found


def load(folder: Path, shape: str) -> PreTrainedModel:
    return (load_classifier if shape in ENCODERS else load_writer)(folder)[0]


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_adapter_comes_back_to_the_bit(tmp_path: Path, shape: str, kind: Any) -> None:
    base = base_folder(tmp_path / "base", shape)
    model, tokenizer, notes = adapted(base, shape, Adapter(kind=kind, r=4, dropout=0.0))
    before = logits(model)
    shake(model)
    after = logits(model)
    assert not torch.allclose(before, after, atol=1e-3)  # the matrices, and the head, do something
    folder = saved(model, tokenizer, tmp_path / "best", base=base, kind=kind)
    assert torch.equal(logits(load(folder, shape)), after)
    trained, total = model.num_parameters(only_trainable=True), model.num_parameters()
    assert 0 < trained < total and f"{trained:,} of {total:,} parameters are trained" in " ".join(notes)
    assert not (folder / "model.safetensors").exists()
    with_peft = PeftModel.from_pretrained(plain_base(base, folder, shape), str(folder))
    assert torch.allclose(logits(with_peft), after, atol=1e-6)  # type: ignore[arg-type]
    merge(model)
    assert type(model) is type(plain_base(base, folder, shape)) and not any(
        "lora" in name for name in model.state_dict()
    )
    assert (logits(model) - after).abs().max() <= 1e-5 * max(1.0, after.abs().max().item())


def plain_base(base: Path, folder: Path, shape: str) -> PreTrainedModel:
    """The base as a user of peft loads it; a classifier's needs the labels of the adapter's own configuration."""
    if shape in ENCODERS:
        config = AutoConfig.from_pretrained(folder)
        found: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(base, config=config)
        return found
    auto: Any = AutoModelForSeq2SeqLM if shape == "t5" else AutoModelForCausalLM
    found = auto.from_pretrained(base)
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_before_training_the_adapter_changes_nothing(tmp_path: Path, shape: str) -> None:
    base = base_folder(tmp_path, shape)
    plain, _, _ = adapted(base, shape, Adapter())
    expected = logits(plain)
    for kind in ("lora", "dora"):
        model, _, _ = adapted(base, shape, Adapter(kind=kind))  # type: ignore[arg-type]
        assert torch.allclose(logits(model), expected, atol=1e-5)


def test_the_matrices_depend_on_the_seed_alone(tmp_path: Path) -> None:
    base = tiny_bert_folder(tmp_path)
    first, again, other = (adapted(base, "bert", Adapter(kind="lora"), seed=seed)[0] for seed in (1, 1, 2))
    torch.rand(3)
    name = next(name for name in first.state_dict() if "lora_A" in name)
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def test_the_same_adapter_is_the_same_files(tmp_path: Path) -> None:
    base = tiny_bert_folder(tmp_path / "base")
    model, tokenizer, _ = adapted(base, "bert", Adapter(kind="lora"))
    one, two = (saved(model, tokenizer, tmp_path / name, base=base) for name in ("one", "two"))
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
    assert all(path.read_bytes() == (two / path.name).read_bytes() for path in one.iterdir())
    told = json.loads((one / "finetune.json").read_text())["adapter"]["base"]
    assert (
        told["name"] == "../base"
        and len(told["sha256"]) == 64
        and str(tmp_path) not in "".join(path.read_text(errors="ignore") for path in one.iterdir())
    )  # no folder of this machine


# ---- what is trained


def test_which_layers_get_matrices_goes_by_the_network(tmp_path: Path) -> None:
    def last(names: list[str]) -> set[str]:
        return {name.rpartition(".")[2] for name in names}

    bert, roberta, gpt2, llama, t5 = (
        adapted(base_folder(tmp_path / shape, shape), shape, Adapter())[0]
        for shape in ("bert", "roberta", "gpt2", "llama", "t5")
    )
    assert last(target_modules(bert)) == {"query", "key", "value", "dense"}
    assert last(target_modules(gpt2)) == {"c_attn", "c_proj", "c_fc"}  # no lm_head
    assert last(target_modules(llama)) == {
        *("q_proj", "k_proj", "v_proj", "o_proj"), *("gate_proj", "up_proj", "down_proj")
    }  # fmt: skip
    assert last(target_modules(t5)) == {"q", "k", "v", "o", "wi", "wo"}
    assert last(target_modules(bert, named=["query", "value"])) == {"query", "value"}
    # The head has a layer `dense` too, and is trained whole.
    named = target_modules(roberta, named=["dense"], whole=whole_modules(roberta))
    assert named and all(name.startswith("roberta.encoder.") for name in named)


def test_the_head_and_a_new_pooler_are_whole_and_a_pooler_of_the_base_is_not(tmp_path: Path) -> None:
    base = tiny_bert_folder(tmp_path / "base")
    with_pooler, _, _ = adapted(base, "bert", Adapter(kind="lora"))
    assert not with_pooler.get_submodule("bert.pooler.dense").get_parameter("base_layer.weight").requires_grad
    from safetensors.torch import load_file, save_file

    tensors = load_file(base / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if "pooler" not in n}, base / "model.safetensors", {"format": "pt"})
    model, tokenizer, notes = adapted(base, "bert", Adapter(kind="lora"))
    assert model.get_parameter("bert.pooler.dense.weight").requires_grad
    assert "whole: classifier, bert.pooler.dense" in " ".join(notes)
    shake(model)
    folder = saved(model, tokenizer, tmp_path / "best", base=base)
    assert torch.equal(logits(load(folder, "bert")), logits(model))
    with_peft = PeftModel.from_pretrained(plain_base(base, folder, "bert"), str(folder))
    assert torch.allclose(logits(with_peft), logits(model), atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("tied", [True, False])
def test_new_embeddings_are_saved_with_the_adapter(tmp_path: Path, tied: bool) -> None:
    base = tiny_writer_folder(tmp_path / "base", "llama", tie_word_embeddings=tied)
    model, tokenizer, _ = adapted(base, "llama", Adapter())
    grow_embeddings(model, len(tokenizer) + 3)
    wrap(model, Adapter(kind="lora", r=4), seed=1)
    shake(model)
    folder = saved(model, tokenizer, tmp_path / "best", base=base)
    assert torch.equal(logits(load(folder, "llama")), logits(model))
    bare = AutoModelForCausalLM.from_pretrained(base)
    bare.resize_token_embeddings(len(tokenizer) + 3, mean_resizing=False)
    assert torch.allclose(logits(PeftModel.from_pretrained(bare, str(folder))), logits(model), atol=1e-6)  # type: ignore[arg-type]


def test_modules_can_be_named_to_be_trained_whole(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base", "gpt2")
    model, tokenizer, _ = adapted(
        base, "gpt2", Adapter(kind="lora", target_modules=["c_attn"], modules_to_save=["wte"])
    )
    assert model.get_parameter("transformer.wte.weight").requires_grad
    shake(model)
    folder = saved(model, tokenizer, tmp_path / "best", base=base)
    assert torch.equal(logits(load(folder, "gpt2")), logits(model))
    with_peft = PeftModel.from_pretrained(plain_base(base, folder, "gpt2"), str(folder))
    assert torch.allclose(logits(with_peft), logits(model), atol=1e-6)  # type: ignore[arg-type]


def test_an_adapter_lies_on_a_merged_base_as_on_any_other(tmp_path: Path) -> None:
    base = tiny_bert_folder(tmp_path / "base")
    model, tokenizer, _ = adapted(base, "bert", Adapter(kind="lora"))
    shake(model)
    merge(model)
    save_with_settings(model, tokenizer, tmp_path / "merged", settings={})
    second, tokenizer, _ = adapted(tmp_path / "merged", "bert", Adapter(kind="dora"))
    assert torch.allclose(logits(second), logits(model), atol=1e-5)  # the head is kept
    shake(second)
    folder = saved(second, tokenizer, tmp_path / "best", base=tmp_path / "merged", kind="dora")
    assert torch.equal(logits(load(folder, "bert")), logits(second))


def test_a_gpt2_classifier_keeps_its_head(tmp_path: Path) -> None:
    base = tiny_gpt2_folder(tmp_path / "base", num_labels=3)
    folder = ModelFolder(base, origin="folder")
    tokenizer = load_tokenizer(folder)
    model, _ = build_classifier(
        EncoderModel(name="base"), folder=folder, tokenizer=tokenizer, label_names=LABELS, multi_label=False, seed=1,
        adapter=Adapter(kind="lora"),
    )  # fmt: skip
    shake(model)
    assert torch.equal(logits(load_classifier(saved(model, tokenizer, tmp_path / "best", base=base))[0]), logits(model))


# ---- what is refused


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    base = tiny_bert_folder(tmp_path / "base")
    model, tokenizer, _ = adapted(base, "bert", Adapter(kind="lora"))
    folder = saved(model, tokenizer, tmp_path / "best", base=base)
    shutil.move(base, tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"best: is an adapter of '\.\./base', which is not found"):
        load_classifier(folder)
    settings = json.loads((folder / "finetune.json").read_text())
    settings["adapter"]["base"] |= {"name": "owner/model", "revision": "0" * 40, "is_folder": False}
    (folder / "finetune.json").write_text(json.dumps(settings))
    with pytest.raises(EnvironmentFault, match=f"is an adapter of 'owner/model' at revision {'0' * 40}"):
        load_classifier(folder)


def test_another_base_is_refused(tmp_path: Path) -> None:
    base = tiny_bert_folder(tmp_path / "base")
    model, tokenizer, _ = adapted(base, "bert", Adapter(kind="lora"))
    folder = saved(model, tokenizer, tmp_path / "best", base=base)
    shutil.rmtree(base)
    tiny_bert_folder(base, seed=1)
    with pytest.raises(ModelError, match=r"'\.\./base', whose weights are others"):
        load_classifier(folder)


def test_a_damaged_adapter_is_refused(tmp_path: Path) -> None:
    base = tiny_bert_folder(tmp_path / "base")
    model, tokenizer, _ = adapted(base, "bert", Adapter(kind="lora"))
    folder = saved(model, tokenizer, tmp_path / "best", base=base)
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors is incomplete"):
        load_classifier(folder)
    from safetensors.torch import load, save_file

    tensors = load(whole)
    save_file(dict(list(tensors.items())[1:]), weights)
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors does not fit"):
        load_classifier(folder)
    tensors[next(iter(tensors))][0] = float("nan")
    save_file(tensors, weights)
    with pytest.raises(ModelError, match="holds NaN or infinity"):
        load_classifier(folder)
    weights.unlink()
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        load_classifier(folder)


def test_unknown_names_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    base = tiny_bert_folder(tmp_path)
    with pytest.raises(ModelError, match=r"adapter.target_modules: the model has no 'q_proj' there. Found: .*query"):
        adapted(base, "bert", Adapter(kind="lora", target_modules=["q_proj"]))
    with pytest.raises(ModelError, match=r"adapter.target_modules: .*Did you mean 'query'"):
        adapted(base, "bert", Adapter(kind="lora", target_modules=["querry"]))
    with pytest.raises(ModelError, match=r"adapter.modules_to_save: the model has no 'lm_head'"):
        adapted(base, "bert", Adapter(kind="lora", modules_to_save=["lm_head"]))


def recipe(**sections: Any) -> Any:
    values = {"task": "text-classification", "data": {"source": "reviews.csv"}, **sections}
    return check_recipe(YamlText(name="recipe.yaml", values=values), base=Path(), name="recipe").recipe


@pytest.mark.parametrize(("sections", "expected"), [
    ({"adapter": {"kind": "frozen", "r": 4}}, "r has no effect with kind 'frozen'"),
    ({"adapter": {"alpha": 8}}, "alpha has no effect with kind 'none'"),
    ({"adapter": {"kind": "none", "target_modules": ["query"]}}, "target_modules has no effect"),
    ({"adapter": {"kind": "loar"}}, "Did you mean 'lora'"),
    ({"adapter": {"kind": "lora", "target_modules": []}}, "target_modules"),
    ({"adapter": {"kind": "lora", "target_modules": ["q", "q"]}}, "'q' is listed twice"),
    ({"adapter": {"kind": "lora"}, "model": {"from_scratch": {}}}, "a model from scratch has none"),
    ({"adapter": {"kind": "frozen"}, "model": {"attention_dropout": 0}}, "attention_dropout has no effect"),
    ({"adapter": {"kind": "frozen"}, "task": "text-generation", "model": {"name": "gpt2"}}, "'frozen' is not known"),
])  # fmt: skip
def test_keys_that_do_nothing_are_refused(sections: dict[str, Any], expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        recipe(**sections)


def test_every_default_may_be_written_out() -> None:
    plain = recipe()
    assert plain.adapter == Adapter() and recipe(adapter=plain.adapter.model_dump()) == plain


def test_a_low_rate_is_noted() -> None:
    assert rate_note(Adapter(kind="lora"), 2e-5) == [
        "training.learning_rate 2e-05 is one for training every weight; usual here: 1e-4 to 5e-4"
    ]
    assert not rate_note(Adapter(kind="lora"), 1e-4) and not rate_note(Adapter(), 2e-5)


def test_peft_finds_the_base_by_the_name_that_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_folder(tmp_path / "base", "gpt2")
    model, tokenizer, _ = adapted(base, "gpt2", Adapter(kind="lora"))
    shake(model)
    folder = saved(model, tokenizer, tmp_path / "best", base=base)
    monkeypatch.chdir(folder)  # a folder is named by its way from the adapter
    assert torch.allclose(logits(AutoPeftModelForCausalLM.from_pretrained(".")), logits(model), atol=1e-6)


# ---- checkpoints


def test_a_stopped_adapter_goes_on_to_the_same_bit(tmp_path: Path) -> None:
    """With dropout in the matrices, drawn by (seed, step); a checkpoint holds what is trained and no base."""

    def wrapped() -> PreTrainedModel:
        model = tiny_bert(3, dropout=0.2)
        wrap(model, Adapter(kind="lora", r=4, dropout=0.3), seed=5)
        return model

    def plan(folder: Path) -> FitPlan:
        train, validation = tiny_documents(30), tiny_documents(12, seed=1)
        return tiny_plan(folder, train=train, validation=validation, num_train_epochs=4, learning_rate=1e-2)

    whole = wrapped()
    fit(whole, plan(tmp_path / "whole"))
    cut = plan(tmp_path / "cut")

    def stop(epoch: float, scores: Any) -> None:
        if epoch == 2:
            cut.stop._received = 15

    with pytest.raises(Stopped):
        fit(wrapped(), replace(cut, on_evaluation=stop))
    checkpoint, _ = newest_checkpoint(cut.checkpoints, identity=cut.identity)
    assert checkpoint is not None
    held = load_file(checkpoint.folder / "trained.safetensors")
    assert {*held} == {name for name, weight in whole.named_parameters() if weight.requires_grad}
    assert not (checkpoint.folder / "model.safetensors").exists()
    gone_on = wrapped()
    fit(gone_on, plan(tmp_path / "cut"), resume=checkpoint)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, gone_on.state_dict()[name]), name


def test_the_best_epoch_is_put_back(tmp_path: Path) -> None:
    model = tiny_bert(3)
    wrap(model, Adapter(kind="lora", r=4), seed=5)
    kept: list[dict[str, torch.Tensor]] = []
    plan = tiny_plan(
        tmp_path, train=tiny_documents(30), validation=tiny_documents(12, seed=1), num_train_epochs=3,
        learning_rate=5e-2, score=lambda predictions: {"f1_macro": -float(len(kept))},
    )  # fmt: skip
    told = lambda epoch, scores: kept.append({n: w.detach().clone() for n, w in model.state_dict().items()})  # noqa: E731
    result = fit(model, replace(plan, on_evaluation=told))
    assert result.best_epoch == 1 and result.optimizer_bytes
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert 8 * trained <= result.optimizer_bytes < 8 * trained + 1000  # Adam: two float32 averages of each weight
    assert all(torch.equal(weight, kept[0][name]) for name, weight in model.state_dict().items())
    assert not torch.equal(kept[0]["classifier.weight"], kept[2]["classifier.weight"])


def test_other_settings_do_not_fit_a_checkpoint(tmp_path: Path) -> None:
    one, other = tiny_bert(3), tiny_bert(3)
    wrap(one, Adapter(kind="lora", r=4), seed=5)
    wrap(other, Adapter(kind="lora", r=4, target_modules=["query"]), seed=5)
    save_trained(one, tmp_path)
    with pytest.raises(ModelError, match="weights and model do not fit"):
        load_trained(other, tmp_path)


# ---- four bits


def test_four_bits_need_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"task": "text-classification", "data": {"source": "reviews.csv"}, "adapter": {"kind": "qlora"}}
    loaded = check_recipe(YamlText(name="recipe.yaml", values=values), base=Path(), name="recipe")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match=r"adapter.kind: 'qlora' needs a GPU with CUDA.*Use lora, or install"):
        refuse_arithmetic(loaded)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="needs bitsandbytes, which is not installed"):
        refuse_arithmetic(loaded)


def test_heads_and_output_layers_are_not_in_four_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    chosen = _four_bits(AutoConfig.from_pretrained(tiny_roberta_folder(tmp_path)), AutoModelForSequenceClassification)
    assert chosen.llm_int8_skip_modules == ["classifier", "lm_head"]
    assert (chosen.load_in_4bit, chosen.bnb_4bit_quant_type, chosen.bnb_4bit_use_double_quant) == (True, "nf4", True)


def test_without_a_gpu_a_four_bit_adapter_lies_on_the_whole_base(tmp_path: Path) -> None:
    base = tiny_bert_folder(tmp_path / "base")
    model, tokenizer, _ = adapted(base, "bert", Adapter())
    wrap(model, Adapter(kind="qlora", r=4), seed=1)
    shake(model)
    folder = saved(model, tokenizer, tmp_path / "best", base=base, kind="qlora")
    assert torch.equal(logits(load(folder, "bert")), logits(model))


# ---- beside the rest


def test_a_save_never_asks_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*asked: Any, **named: Any) -> None:
        raise AssertionError(f"the Hub was asked for {asked}")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", refuse)
    base = tiny_bert_folder(tmp_path / "base")
    model, tokenizer, _ = adapted(base, "bert", Adapter(kind="lora"))
    with pytest.raises(AssertionError, match="owner/model"):  # what peft itself would do
        model.peft_config["default"].base_model_name_or_path = "owner/model"  # type: ignore[index]
        get_peft_model_state_dict(model)
    on_hub = Base("owner/model", "0" * 40, "0" * 64)
    save_with_settings(model, tokenizer, tmp_path / "best", settings={"adapter": {"kind": "lora"}}, base=on_hub)
    told = json.loads((tmp_path / "best" / "adapter_config.json").read_text())
    assert (told["base_model_name_or_path"], told["revision"]) == ("owner/model", "0" * 40)


def test_advice_after_a_fit_goes_by_what_is_trained() -> None:
    def settings(kind: str) -> FitSettings:
        made = recipe(adapter={"kind": kind}, training={"learning_rate": 2e-5})
        return fit_settings(
            made, training_documents=500, validation_documents=100, chance_loss=1.0, stopped_early=False
        )

    rates = {kind: dict(_higher_rate(settings(kind))) for kind in ("none", "lora", "frozen")}
    assert not settings("frozen").has_attention_dropout  # the recipe would refuse it
    assert [float(next(iter(rates[kind])).split("=")[1]) for kind in ("lora", "frozen")] == [3.2e-4, 3.2e-3]
    assert float(next(iter(rates["none"]))[len("training.learning_rate=") :]) < 1e-4


def test_an_adapter_can_be_searched() -> None:
    space = {"adapter.r": [4, 8], "adapter.dropout": {"low": 0.0, "high": 0.3}, "adapter.kind": ["lora", "dora"]}
    assert recipe(adapter={"kind": "lora"}, search={"space": space, "trials": 3}).search is not None
