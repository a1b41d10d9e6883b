"""What a user sees for each bad recipe, model folder and run folder: parts C to E of the catalogue of bad inputs.

Every case builds its files, calls the command's main function in process, and looks at exit code, message and disk;
bad_inputs.py says how. Bad data are in test_bad_data.py.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_inputs import (
    CHECK,
    TRAIN,
    Case,
    accepted,
    check_accepted,
    check_refused,
    edit_json,
    make_ready,
    on_disk,
    recipe,
    refused,
    settle_in,
    table,
    write_files,
)
from safetensors.torch import load_file, save_file

from finetune.cli import main
from finetune.runs import Run
from finetune.scores.paired import greater_is_better


def training(*lines: str) -> dict[str, str | bytes]:
    """The recipe with these lines at the end of its training section: the first of them is line 12."""
    return {"recipe.yaml": recipe(training="".join(f"  {line}\n" for line in lines))}


def extra(text: str) -> dict[str, str | bytes]:
    """The recipe with this text below its training section, from line 12 on."""
    return {"recipe.yaml": recipe(extra=text)}


def whole(text: str | bytes) -> dict[str, str | bytes]:
    return {"recipe.yaml": text}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{key}: &{key} [{', '.join(['*' + before] * 9)}]\n" for before, key in zip("abcdefgh", "bcdefghi", strict=True)
)
SECRET = "hf_" + "abcdefghijklmnop" * 2

RECIPES = [
    accepted("C01", training("learning_rate: 2e-5")),
    refused(
        "C02",
        training("lerning_rate: 1"),
        "recipe.yaml:12: unknown key 'training.lerning_rate'. Did you mean 'learning_rate'?",
    ),
    refused(
        "C03",
        training(
            "group_by_length: true",
            "evaluation_strategy: epoch",
            "warmup_ratio: 0.1",
            "overwrite_output_dir: true",
            "no_cuda: true",
            "max_length: 64",
        ),
        "recipe.yaml:12: unknown key 'training.group_by_length'. Leave it out",
        "'training.evaluation_strategy'. Write eval_strategy.",
        "'training.warmup_ratio'. Write warmup_steps",
        "'training.overwrite_output_dir'. Name the run folder with --run DIR.",
        "'training.no_cuda'. Write use_cpu.",
        "recipe.yaml:17: unknown key 'training.max_length'. Write windows.max_tokens.",
    ),
    accepted("C04", training("eval_strategy: no", "save_strategy: no", "load_best_model_at_end: false")),
    refused("C05", extra("seed: 1\nseed: 2\n"), "recipe.yaml:13: key 'seed' repeated (line 12)"),
    refused("C06", whole(recipe() + "\tseed: 1\n"), "recipe.yaml:12: is indented with a tab. Use spaces."),
    refused("C07", extra("seed: !!python/object/apply:os.mkdir [marker]\n"), "recipe.yaml:12: tags are not allowed"),
    refused(
        "C08-aliases", whole(BOMB), "recipe.yaml:1: more than 20,000 values or 20 levels after aliases are filled in"
    ),
    refused("C08-size", whole(recipe() + "# padding\n" * 50_000), "recipe.yaml: larger than 200,000 bytes"),
    refused("C08-depth", whole("a: " + "[" * 2000), "recipe.yaml:1: more than 20 levels deep"),
    refused("C08-itself", whole("a: &a [*a]\n"), "recipe.yaml:1: more than 20,000 values or 20 levels"),
    refused("C09", whole(""), "recipe.yaml: is empty; expected key: value pairs"),
    refused("C09-comment", whole("# nothing\n"), "recipe.yaml: is empty; expected key: value pairs"),
    refused("C09-list", whole("- a\n- b\n"), "recipe.yaml:1: expected key: value pairs at the top level"),
    refused(
        "C09-section",
        whole("task: text-classification\ndata: x\nmodel: bert\ntraining:\n"),
        "recipe.yaml:2: data: must be key: value pairs, found 'x'. Known here: source",
        "recipe.yaml:4: training: is empty",
    ),
    refused(
        "C10",
        training(
            "gradient_accumulation_steps: -1",
            "learning_rate: -1",
            "weight_decay: .nan",
            "max_grad_norm: .inf",
            "label_smoothing_factor: 1",
            "warmup_steps: true",
        ),
        "recipe.yaml:12: training.gradient_accumulation_steps: must be greater than or equal to 1, found -1",
        "recipe.yaml:13: training.learning_rate: must be greater than 0, found -1",
        "recipe.yaml:14: training.weight_decay: must be greater than or equal to 0, found nan",
        "recipe.yaml:15: training.max_grad_norm: must be a finite number, found inf",
        "recipe.yaml:16: training.label_smoothing_factor: must be less than 1, found 1",
        "recipe.yaml:17: training.warmup_steps: expected a number, found a truth value",
    ),
    refused(
        "C10-batch",
        {},
        "command line: training.per_device_train_batch_size: must be greater than or equal to 1, found 0",
        "training.num_train_epochs: must be greater than or equal to 1, found -2",
        "training.learning_rate: must be greater than 0, found 0",
        argv=(
            *TRAIN,
            "training.per_device_train_batch_size=0",
            "training.num_train_epochs=-2",
            "training.learning_rate=0",
        ),
    ),
    accepted("C11", {}, argv=(*CHECK, 'training.num_train_epochs="3"')),
    refused(
        "C11-words",
        {},
        "command line: training.num_train_epochs: must be a whole number, found 'three'",
        argv=(*TRAIN, "training.num_train_epochs=three"),
    ),
    refused(
        "C11-half",
        {},
        "command line: training.num_train_epochs: must be a whole number, found 1.5",
        argv=(*TRAIN, "training.num_train_epochs=1.5"),
    ),
    refused(
        "C12",
        whole(recipe().replace("epochs: 1", "epochs: 0")),
        "recipe.yaml:9: training.num_train_epochs: must be greater than or equal to 1, found 0",
    ),
    refused("C12-old", extra("epochs: 0\n"), "recipe.yaml:12: unknown key 'epochs'. Write training.num_train_epochs."),
    refused(
        "C13",
        training("metric_for_best_model: f1"),
        "recipe.yaml:12: training.metric_for_best_model: 'f1' is not known",
        "Choose one of: f1_macro, f1_micro",
    ),
    accepted("C14", training("metric_for_best_model: error_rate")),
    refused(
        "C14-direction",
        training("greater_is_better: true"),
        "recipe.yaml:12: unknown key 'training.greater_is_better'. Leave it out: finetune sets it.",
    ),
    refused(
        "C14-extra",
        training("extra: {greater_is_better: true}"),
        "recipe.yaml:12: training.extra.greater_is_better: 'greater_is_better' is set by finetune",
    ),
    refused(
        "C15",
        training("save_strategy: no"),
        "recipe.yaml:12: training.save_strategy: load_best_model_at_end needs the same eval_strategy (epoch) and",
    ),
    refused(
        "C16",
        training(f"hub_token: {SECRET}"),
        "recipe.yaml:12: training.hub_token: a secret does not belong in a recipe. Set HF_TOKEN in the environment.",
        hides=(SECRET,),
    ),
    refused(
        "C16-value",
        {"recipe.yaml": recipe(data=f"  labels: [{SECRET}, b]\n")},
        "recipe.yaml:6: data.labels: a secret does not belong in a recipe",
        hides=(SECRET,),
    ),
    refused(
        "C16-argument",
        {},
        "command line: training.extra.hub_token: a secret",
        argv=(*TRAIN, f"training.extra.hub_token={SECRET}"),
        hides=(SECRET,),
    ),
    refused("C17", {"out/run.json": "{}"}, "out: belongs to another run. Use --resume or another folder."),
    refused("C17-other", {"out/notes.md": "mine"}, "out: is not empty. Use --resume or another folder."),
    refused("C18", {"out": "a file"}, "out: is a file. Name a folder with --run."),
    refused("C18-below", {"out": "a file"}, "out: is a file", argv=("train", "recipe.yaml", "--run", "out/x")),
    refused(
        "C19",
        {},
        "command line: windows.max_tokens: 100,000 tokens, but the model allows 64",
        "Write windows.max_tokens: 64",
        argv=(*TRAIN, "windows.max_tokens=100000"),
    ),
    refused(
        "C20",
        training("fp16: true"),
        "recipe.yaml:12: training.fp16: float16 training needs a GPU. Leave it out on a CPU.",
    ),
    refused(
        "C20-both", training("bf16: true", "fp16: true"), "recipe.yaml:8: training: bf16 and fp16 exclude each other"
    ),
    accepted("C21", training("class_weights: balanced", "label_smoothing_factor: 0.1")),
    accepted(
        "C22",
        {"食谱 x/recipe.yaml": recipe(source="'../数据 文件/评论 (1).csv'"), "数据 文件/评论 (1).csv": table()},
        argv=("check", "食谱 x/recipe.yaml"),
    ),
    accepted("C22-home", {"recipe.yaml": recipe(source="~/in home.csv"), "in home.csv": table()}),
    # All problems at once, in the order of the file.
    refused(
        "C02+C05+C12+C13",
        whole(
            "seed: 1\nseed: 2\ntask: text-clasification\ndata: {sorce: x}\n"
            "training:\n  num_train_epochs: 0\n  epoch: 1\n"
        ),
        "recipe.yaml:2: key 'seed' repeated (line 1)",
        "recipe.yaml:3: task: 'text-clasification' is not known",
        "recipe.yaml:4: data.source: is missing",
        "recipe.yaml:4: unknown key 'data.sorce'. Did you mean 'source'?",
        "recipe.yaml:6: training.num_train_epochs: must be",
        "recipe.yaml:7: unknown key 'training.epoch'",
    ),
]


def cut(path: Path, *, keep: float) -> None:
    """Only the first part of a file is left, as after a full disk."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def flip(path: Path, *, count: int = 64) -> None:
    """The same size, other bytes."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + count] = bytes(255 - byte for byte in content[middle : middle + count])
    path.write_bytes(bytes(content))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


class Marker:
    """Unpickled, it makes a file: the sign that a stranger's code ran."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("marker",)


def pickled_weights(folder: Path) -> None:
    (folder / "m" / "model.safetensors").unlink()
    (folder / "m" / "pytorch_model.bin").write_bytes(pickle.dumps(Marker()))


def remote_code(folder: Path) -> None:
    (folder / "m" / "modeling_own.py").write_text("import os\nos.mkdir('marker')\n")
    edit_json(folder / "m" / "config.json", auto_map={"AutoModelForSequenceClassification": "modeling_own.Own"})


def secret_vocab(folder: Path) -> None:
    (folder / "m" / ".env").write_text("TOKEN=1\n")
    edit_json(folder / "m" / "tokenizer_config.json", vocab_file=".env")


def no_tokenizer(folder: Path) -> None:
    for path in (folder / "m").glob("*token*"):
        path.unlink()


def all_half(tensors: dict[str, torch.Tensor]) -> None:
    tensors.update({name: tensor.half() for name, tensor in tensors.items()})


def one_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["embeddings.word_embeddings.weight"][3, 3] = float("nan")


def with_model(name: str = "./m") -> dict[str, str | bytes]:
    return {"recipe.yaml": recipe(model=f"name: {name}")}


def bad_model(id: str, damage: Callable[[Path], object], *says: str, **more: object) -> Case:
    """The recipe names ./m, a sound tiny BERT without a head until `damage(folder)`."""
    return Case(id, with_model(), says, needs=("m",), build=damage, **more)  # type: ignore[arg-type]


MODELS = [
    refused("D01", with_model("./m/nope"), "model.name: no such folder: ./m/nope"),
    refused("D02", with_model("nobody/nothing"), "model.name: cannot reach the Hub; give a local folder", code=5),
    bad_model("D03-none", lambda f: (f / "m/config.json").unlink(), "/m: no config.json"),
    bad_model("D03-json", lambda f: (f / "m/config.json").write_text("{"), "/m: config.json is not valid JSON"),
    bad_model(
        "D03-type", lambda f: edit_json(f / "m/config.json", model_type=None), "/m: config.json has no 'model_type'"
    ),
    bad_model(
        "D04",
        lambda f: edit_json(f / "m/config.json", model_type="berd"),
        "/m: unknown model_type 'berd' in config.json (transformers",
        "Did you mean 'bert'?",
    ),
    bad_model("D05", lambda f: (f / "m/model.safetensors").unlink(), "/m: no weights (model.safetensors)"),
    bad_model(
        "D06", lambda f: cut(f / "m/model.safetensors", keep=0.5), "/m: model.safetensors is incomplete (", " bytes)"
    ),
    bad_model(
        "D07",
        lambda f: (f / "m/model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n"),
        "/m: model.safetensors is a Git LFS pointer; run git lfs pull",
    ),
    bad_model("D08", no_tokenizer, "/m: no tokenizer files"),
    bad_model(
        "D09",
        lambda f: (
            edit_json(f / "m/config.json", vocab_size=5),
            edit_weights(
                f / "m",
                lambda t: t.update(
                    {"embeddings.word_embeddings.weight": t["embeddings.word_embeddings.weight"][:5].clone()}
                ),
            ),
        ),
        "/m: tokenizer has id ",
        "model has 5",
    ),
    bad_model("D10", lambda f: None, "m: no classification head", argv=("predict", "m", "--text", "a film")),
    bad_model("D10-train", lambda f: None, "classifier head is new: trained from scratch", code=0),
    refused(
        "D12+D13",
        with_model("./m3"),
        "/m3: the head of BertForSequenceClassification has 3 labels, 2 are wanted (neg, pos)",
        needs=("m3",),
    ),
    bad_model(
        "D14",
        lambda f: edit_json(f / "m/config.json", intermediate_size=48),
        "/m: weights do not fit config.json: ",
        "intermediate.dense.weight is [32, 16], config.json says [48, 16]",
    ),
    refused(
        "D15",
        with_model("./m3"),
        "/m3: config.json names 1 labels (id2label), the head has 3",
        needs=("m3",),
        build=lambda f: edit_json(f / "m3/config.json", id2label={"0": "neg"}),
    ),
    bad_model("D16", pickled_weights, "/m: only safetensors are loaded. Found: pytorch_model.bin"),
    bad_model("D17", remote_code, "/m: config.json asks to run code of its own (auto_map); refused"),
    bad_model("D18", secret_vocab, "/m: tokenizer_config.json: 'vocab_file' names '.env'", "refused"),
    bad_model(
        "D19",
        lambda f: edit_weights(f / "m", all_half),
        "weights are stored as F16, loaded and trained as float32",
        code=0,
    ),
    bad_model(
        "D20",
        lambda f: edit_weights(f / "m", one_nan),
        "/m: ",
        "embeddings.word_embeddings.weight holds NaN or infinity",
    ),
]

RESUME = ("train", "run", "--resume")


def newest(folder: Path) -> Path:
    return folder / "run/checkpoints/checkpoint-6"


def damaged(id: str, damage: Callable[[Path], object], *says: str, **more: object) -> Case:
    """A run stopped after its third epoch goes on from the second: `damage(folder)` spoils its newest checkpoint."""
    arguments = {"argv": RESUME, "code": 0, "says": (*says, "run: going on from step 4")} | more
    return Case(id, build=damage, needs=("run",), **arguments)  # type: ignore[arg-type]


def every_checkpoint(folder: Path) -> list[Path]:
    return sorted((folder / "run/checkpoints").glob("checkpoint-*"))


RUNS = [
    damaged(
        "E02-none",
        lambda f: (newest(f) / "trainer_state.json").unlink(),
        "skipping checkpoint-6: trainer_state.json is missing",
    ),
    damaged(
        "E02-empty",
        lambda f: cut(newest(f) / "trainer_state.json", keep=0),
        "skipping checkpoint-6: trainer_state.json has 0 of",
    ),
    damaged("E03", lambda f: (newest(f) / "optimizer.pt").unlink(), "skipping checkpoint-6: optimizer.pt is missing"),
    damaged("E04", lambda f: (newest(f) / "scheduler.pt").unlink(), "skipping checkpoint-6: scheduler.pt is missing"),
    damaged("E05", lambda f: (newest(f) / "rng_state.pth").unlink(), "skipping checkpoint-6: rng_state.pth is missing"),
    damaged("E06", lambda f: cut(newest(f) / "optimizer.pt", keep=0.5), "skipping checkpoint-6: optimizer.pt has"),
    damaged(
        "E07", lambda f: cut(newest(f) / "model.safetensors", keep=0.5), "skipping checkpoint-6: model.safetensors has"
    ),
    damaged(
        "E08",
        lambda f: flip(newest(f) / "model.safetensors"),
        "skipping checkpoint-6: model.safetensors is damaged (checksum)",
    ),
    damaged(
        "E08-optimizer",
        lambda f: flip(newest(f) / "optimizer.pt"),
        "skipping checkpoint-6: optimizer.pt is damaged (checksum)",
    ),
    damaged(
        "E09",
        lambda f: (
            (f / "run/checkpoints/checkpoint-99").mkdir(),
            (f / "run/checkpoints/checkpoint-100").write_text(""),
        ),
        says=("skipping checkpoint-99: not finished", "run: going on from step 6"),
    ),
    damaged(
        "E10",
        lambda f: [flip(path / "optimizer.pt") for path in every_checkpoint(f)],
        code=2,
        says=(
            "run/checkpoints: no checkpoint is sound",
            "checkpoint-2: optimizer.pt is damaged",
            "--restart starts over",
        ),
    ),
    damaged(
        "E10-restart",
        lambda f: [flip(path / "optimizer.pt") for path in every_checkpoint(f)],
        says=(),
        argv=("train", "run", "--restart"),
    ),
    damaged(
        "E11",
        lambda f: None,
        code=2,
        argv=(*RESUME, "training.learning_rate=2e-5"),
        says=("checkpoint-6: belongs to another run (training.learning_rate 0.001, now 2e-05)",),
    ),
    damaged(
        "E11-data",
        lambda f: (f / "reviews.csv").write_text(table("one more,pos")),
        code=2,
        says=("checkpoint-6: belongs to another run (data ",),
    ),
    damaged(
        "E13-fewer",
        lambda f: None,
        code=2,
        argv=(*RESUME, "training.num_train_epochs=1"),
        says=("belongs to another run (training.num_train_epochs 3, now 1)",),
    ),
    Case(
        "E13-more",
        says=("belongs to another run (training.num_train_epochs 3, now 5)",),
        needs=("complete",),
        argv=("train", "complete", "--resume", "training.num_train_epochs=5"),
    ),
    damaged(
        "E14", lambda f: shutil.rmtree(f / "run/checkpoints"), says=("run: no checkpoint yet; starting from scratch",)
    ),
    damaged(
        "E14-require",
        lambda f: shutil.rmtree(f / "run/checkpoints"),
        code=2,
        argv=("train", "run", "--resume=require"),
        says=("run: has no checkpoint to go on from",),
    ),
]


CASES = [*RECIPES, *MODELS, *RUNS]
PROMISED = {
    *(f"C{number:02d}" for number in range(1, 23)),
    *(f"D{number:02d}" for number in range(1, 23) if number not in (11, 21, 22)),
    *(f"E{number:02d}" for number in (*range(2, 12), 14)),
}


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ready(tmp_path_factory.mktemp("ready"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle_in(tmp_path, monkeypatch)


@pytest.mark.parametrize("case", [case for case in CASES if case.code], ids=lambda case: case.id)
def test_refused(case: Case, ready: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_files(case, tmp_path, ready=ready)
    check_refused(case, tmp_path, capfd, argv=case.arguments())


@pytest.mark.parametrize("case", [case for case in CASES if not case.code and case not in RUNS], ids=lambda c: c.id)
def test_accepted(case: Case, ready: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_files(case, tmp_path, ready=ready)
    check_accepted(case, tmp_path, capfd)


@pytest.mark.parametrize("case", [case for case in RUNS if not case.code], ids=lambda case: case.id)
def test_resumed(
    case: Case, ready: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with the weights and scores of the run that nothing happened to."""
    monkeypatch.setattr("finetune.scoring.draw_figures", lambda run, scores: None)  # a second each, and no part of this
    write_files(case, tmp_path, ready=ready)
    capfd.readouterr()
    assert main(case.arguments()) == 0
    told = capfd.readouterr().err
    assert not [words for words in case.says if words not in told], told
    for model in ("best", "last"):
        weights = [folder / model / "model.safetensors" for folder in (tmp_path / "run", ready / "complete")]
        assert weights[0].read_bytes() == weights[1].read_bytes(), model
    scores = [json.loads((folder / "scores.json").read_text()) for folder in (tmp_path / "run", ready / "complete")]
    assert scores[0]["splits"] == scores[1]["splits"]


def test_every_promised_case_is_here() -> None:
    ids = [case.id for case in CASES]
    assert len(ids) == len(set(ids))
    here = {id for case in CASES for id in re.findall(r"[C-E]\d\d", case.id)}
    assert not PROMISED - here


def test_c14_an_error_rate_is_better_when_smaller() -> None:
    assert [greater_is_better(name) for name in ("error_rate", "loss", "log_loss", "f1_macro")] == [
        False,
        False,
        False,
        True,
    ]


def test_d21_a_model_is_readable_for_whom_the_umask_lets(ready: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    assert (ready / "complete/best/model.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


def test_d21_weights_of_another_user(
    ready: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(Case("D21", with_model(), needs=("m",)), tmp_path, ready=ready)
    real_open = Path.open

    def opened(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.name == "model.safetensors":  # by its mode this would pass for the super-user
            raise PermissionError(13, "Permission denied")
        return real_open(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", opened)
    assert main(TRAIN) == 2
    assert "cannot read model.safetensors: permission denied" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_e13_a_complete_run_is_left_alone(ready: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ready / "complete", tmp_path / "run")
    shutil.copy(ready / "reviews.csv", tmp_path)
    before = on_disk(tmp_path)
    capfd.readouterr()
    assert main(RESUME) == 0
    assert "already complete (6 of 6 steps)" in capfd.readouterr().err
    assert on_disk(tmp_path) == before


def test_e15_one_process_a_run(ready: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_files(Case("E15", needs=("run",)), tmp_path, ready=ready)
    before = on_disk(tmp_path)
    capfd.readouterr()
    with Run(tmp_path / "run").locked():
        assert main(RESUME) == 2
    assert f"error: run: is in use by process {os.getpid()}" in capfd.readouterr().err
    assert on_disk(tmp_path) == before
