"""Push and pull with the real huggingface_hub client and a Hub of our own: what goes up, what stays, what breaks."""

from __future__ import annotations

import getpass
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import yaml  # type: ignore[import-untyped]
from finished_writers import finished_classifier, finished_writer
from hub_stand_in import TOKEN, HubStandIn, Repository, connect, hub_stand_in, scored
from huggingface_hub import ModelCard
from tiny_adapters import classifier_recipe
from tiny_models import tiny_bert_folder
from tiny_reports import TEXT, tiny_run, tiny_writer_run

from finetune import hub as hub_of_ours
from finetune.errors import CheckpointError, EnvironmentFault, FinetuneError, ModelError, RecipeError
from finetune.experiment import train
from finetune.hub import Pushed, push
from finetune.hub_models import SAVED_FILES, find_model, find_saved_model
from finetune.hub_staging import STAGING, UPLOADED
from finetune.model_folder import TOKENIZER_FILES, weights_sha256
from finetune.predict import Predictor
from finetune.progress import SILENT, Progress
from finetune.recipe_file import check_recipe
from finetune.run_files import Scores
from finetune.runs import Run, write_json, write_text
from finetune.text_predictor import TextPredictor
from finetune.yaml_text import YamlText

NAME = "alice/reviews"
# Joined here, so that no path of anybody's machine stands in the sources.
LINUX, MAC = "/".join(["", "home", "alice"]), "/".join(["", "Users", "alice"])
WINDOWS = r"\\".join(["C:", "Users", "alice"])
WORDS = {"fine": "lovely clean bright", "bad": "dirty cold rude", "late": "waiting slow delayed"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    monkeypatch.setattr(hub_of_ours, "WAITING_SECONDS", (0.0, 0.0, 0.0))
    with hub_stand_in() as stand_in:
        connect(monkeypatch, stand_in, cache=tmp_path / "cache")
        yield stand_in


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return with_models(tiny_run(tmp_path / "run"))


def with_models(run: Run) -> Run:
    """Models of a classifier in best/ and last/, and scores that say so."""
    finished_classifier(run.best)
    tiny_bert_folder(run.last, num_labels=2, seed=1)
    return scored(run)


def pushed(run: Run, name: str = NAME, **settings: Any) -> Pushed:
    return push(run.folder, name, progress=SILENT, **settings)


def refused(run: Run, error: type[FinetuneError], name: str = NAME, **settings: Any) -> str:
    """The message; it never holds the token, and the staging folder is gone."""
    with pytest.raises(error) as caught:
        pushed(run, name, **settings)
    assert TOKEN not in str(caught.value) and "127.0.0.1" not in str(caught.value)
    assert not (run.folder / STAGING).exists()
    return str(caught.value)


# ---- what goes up


def test_the_files_of_the_model_and_nothing_else(run: Run, hub: HubStandIn) -> None:
    for name in (".env", "train.csv", "training_args.bin", "optimizer.pt", "notes.txt", "data.json", "train.jsonl"):
        (run.best / name).write_text(f"HF_TOKEN={TOKEN}")
    (run.best / "sub").mkdir()
    (run.best / "sub" / "config.json").write_text("{}")
    heard: list[Pushed] = []
    done = pushed(run, announce=heard.append)
    assert done.state == "pushed" and done.private and hub.repositories[NAME].private
    stored = hub.files(NAME)
    assert set(stored) == set(done.files) == {
        "README.md", "config.json", "finetune.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert all(stored[name] == (run.best / name).read_bytes() for name in stored if name != "README.md")
    assert {name: len(content) for name, content in stored.items()} == done.files
    assert set(done.left_out) == {
        ".env", "train.csv", "training_args.bin", "optimizer.pt", "notes.txt", "data.json", "train.jsonl", "sub",
    }  # fmt: skip
    assert heard[0].files == done.files and heard[0].state == "dry run"  # said before it was done
    assert not (run.folder / STAGING).exists()
    assert (run.best / "model.safetensors").is_file()  # the link that went is not the file


def test_everything_that_is_uploaded_is_also_fetched() -> None:
    import fnmatch

    names = [*TOKENIZER_FILES, "config.json", "finetune.json", "chat_template.jinja", "generation_config.json",
             "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "merges.txt",
             "adapter_config.json", "adapter_model.safetensors", "special_tokens_map.json"]  # fmt: skip
    assert [name for name in names if not UPLOADED.fullmatch(name)] == []
    assert [name for name in names if not any(fnmatch.fnmatch(name, each) for each in SAVED_FILES)] == []
    for name in (".env", "train.json", "data.json", "model.bin", "config.json.bak", "xmodel.safetensors"):
        assert not UPLOADED.fullmatch(name)


def test_the_card_has_the_scores_of_exactly_these_weights(run: Run, hub: HubStandIn) -> None:
    pushed(run)
    text = hub.files(NAME)["README.md"].decode()
    values = yaml.safe_load(text.split("---\n")[1])
    assert values["model-index"][0]["name"] == "reviews"  # and not that of a folder here
    assert ModelCard(text).data.to_dict() == values  # I07: labels with markup do not break it
    assert weights_sha256(run.best) in text and "hub:alice/reviews" in text and 'model="alice/reviews"' in text
    assert "PATH" not in text
    assert getpass.getuser() == "root" or getpass.getuser() not in text
    assert TEXT[:30] not in text and str(run.folder.parent) not in text
    pushed(run, "alice/last", what="last")
    assert weights_sha256(run.last) in hub.files("alice/last")["README.md"].decode()


def test_scores_of_other_weights_are_refused(run: Run, hub: HubStandIn) -> None:
    (run.best / "model.safetensors").write_bytes((run.last / "model.safetensors").read_bytes())
    assert "sha256 differs" in refused(run, CheckpointError)
    pushed(run, what="last")
    write_json(run.scores, run.read(run.scores, Scores).model_copy(update={"weights": {}}))
    assert "does not say which weights" in refused(run, CheckpointError)
    run.scores.unlink()
    assert "no scores.json" in refused(run, CheckpointError)


def test_models_that_are_not_there(run: Run, hub: HubStandIn, tmp_path: Path) -> None:
    for what in ("adapter", "merged"):
        assert "trained no adapter" in refused(run, CheckpointError, what=what)
    with pytest.raises(CheckpointError, match="no such run folder"):
        push(tmp_path / "nosuch", NAME, progress=SILENT)
    assert hub.requests == []


# ---- what is blocked (I04)


@pytest.mark.parametrize(
    ("file", "line", "what"),
    [
        ("generation_config.json", '"x": "hf_abcdefghijklmnopqrstuvwxyz"', "holds a Hub token"),
        ("tokenizer.json", "hf_abcdefghijklmnopqrstuvwxyz", "holds a Hub token"),
        ("config.json", f'"_name_or_path": "{LINUX}/bert"', f"holds an absolute path ({LINUX}/bert)"),
        ("config.json", f'"_name_or_path": "{MAC}/bert"', f"holds an absolute path ({MAC}/bert)"),
        ("config.json", f'"_name_or_path": "{WINDOWS}"', "holds an absolute path"),
        ("tokenizer_config.json", "AKIAABCDEFGHIJKLMNOP", "holds an AWS key"),
        ("chat_template.jinja", "{# -----BEGIN RSA PRIVATE KEY----- #}", "holds a private key"),
        ("vocab.txt", "ghp_abcdefghijklmnopqrstuvwxyz0123456789", "holds a GitHub token"),
        ("chat_template.jinja", "DB_PASSWORD=hunter2", "holds a setting as in a .env file"),
        ("chat_template.jinja", TEXT, "holds a text of the data"),
        ("chat_template.jinja", "@home", "holds the home folder"),
        ("vocab.txt", "@folder", "holds a path of this machine"),
    ],
)
def test_i04_what_must_stay_here_is_named_by_file_and_line(
    run: Run, hub: HubStandIn, file: str, line: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/homes/somebody")
    line = line.replace("@home", "/homes/somebody").replace("@folder", str(run.folder.resolve()))
    path = run.best / file
    path.write_text((path.read_text(encoding="utf-8") if path.exists() else "") + f"\n{line}\n", encoding="utf-8")
    number = path.read_text(encoding="utf-8").split("\n").index(line.split("\n")[0]) + 1
    for settings in ({}, {"dry_run": True}):
        message = refused(run, ModelError, **settings)
        assert f"{file}:{number}: {what}" in message
        assert "hf_abc" not in message and "hunter2" not in message
    assert hub.requests == []


def test_i04_the_token_in_use_and_the_names_of_user_and_machine(
    run: Run, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "not-in-any-known-form")
    monkeypatch.setattr(getpass, "getuser", lambda: "wolfgang_k")
    monkeypatch.setattr(socket, "gethostname", lambda: "lab-pc-7")
    (run.best / "chat_template.jinja").write_text("{# not-in-any-known-form #}\nby wolfgang_k\non lab-pc-7\n")
    message = refused(run, ModelError)
    assert "chat_template.jinja:1: holds the token in use" in message and "not-in-any" not in message
    assert "chat_template.jinja:2: holds the user name" in message
    assert "chat_template.jinja:3: holds the name of this machine" in message
    (run.best / "chat_template.jinja").write_text("by wolfgang_k\n")
    assert pushed(run, "wolfgang_k/reviews", dry_run=True).files  # an owner's name is public


def test_a_name_of_the_user_in_the_card_is_blocked(run: Run, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "wolfgang_k")
    data = json.loads(run.data.read_text(encoding="utf-8"))
    for name, is_told in (("wolfgang_k reviews.csv", True), ("2024_wolfgang_k.csv", True), ("wolfgang_kx.csv", False)):
        data["files"][0]["name"] = name
        write_text(run.data, json.dumps(data))
        if is_told:  # also behind the backslash that Markdown puts before _
            assert re.search(r"README.md:\d+: holds the user name wolfgang_k", refused(run, ModelError)), name
        else:
            assert pushed(run, dry_run=True).files


def test_labels_and_vocabularies_may_hold_what_looks_like_a_path(run: Run, hub: HubStandIn) -> None:
    (run.best / "vocab.txt").write_text("/home/x\n/usr/bin/env\n")
    labels = ["/r/python/new", "and/or/else", "https://example.org/home/x"]
    run = tiny_run(run.folder, labels=labels)
    config = json.loads((run.best / "config.json").read_text(encoding="utf-8"))
    write_json(run.best / "config.json", {**config, "id2label": dict(enumerate(labels))})
    assert pushed(scored(run), dry_run=True).files


def test_what_the_publisher_should_know_is_said(run: Run, hub: HubStandIn) -> None:
    settings = json.loads((run.best / "finetune.json").read_text(encoding="utf-8"))
    settings |= {"cleaning": ["drop_empty", "mine:strip"], "generation": {"examples": [{"prompt": "a"}]}}
    write_json(run.best / "finetune.json", settings)
    write_text(run.recipe, "task: text-classification\nmodel:\n  from_scratch: {hidden_size: 16}\n")
    notes = " ".join(pushed(run, dry_run=True).notes)
    assert "mine:strip" in notes and "1 examples" in notes and "learnt from the training texts" in notes


# ---- the Hub's answers


def test_i01_without_a_token_nothing_is_asked(run: Run, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert "HF_TOKEN is missing" in refused(run, EnvironmentFault)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(run, EnvironmentFault)
    assert pushed(run, dry_run=True).state == "dry run"
    assert hub.requests == []


def test_i01_a_bad_token(run: Run, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "bad0" * 8)
    message = refused(run, EnvironmentFault)
    assert "HF_TOKEN is refused" in message and "bad0" not in message
    assert hub.repositories == {} and hub.requests == ["GET /api/whoami-v2"]


@pytest.mark.parametrize("path", ["/repos/create", "/commit/"])
def test_i02_three_more_tries(run: Run, hub: HubStandIn, path: str) -> None:
    hub.fail("POST", path, 503, times=3)
    assert pushed(run).state == "pushed"
    assert hub.asked(path) == 4


@pytest.mark.parametrize(("status", "reason"), [(503, "not well (503)"), (None, "the connection broke")])
def test_i02_then_a_message_and_the_same_command_goes_on(
    run: Run, hub: HubStandIn, status: int | None, reason: str
) -> None:
    hub.fail("POST", "/commit/", status, times=4)
    message = refused(run, EnvironmentFault)
    assert reason in message and "the same command goes on" in message
    assert hub.files(NAME) == {} and hub.asked("/commit/") == 4
    uploads = hub.asked("PUT /lfs/")
    assert pushed(run).state == "pushed" and hub.files(NAME)
    assert hub.asked("PUT /lfs/") == uploads == 1  # the weights had arrived


def test_a_connection_that_breaks_within_the_weights_is_taken_up_again(run: Run, hub: HubStandIn) -> None:
    hub.fail("PUT", "/lfs/", None)
    assert pushed(run).state == "pushed"
    assert hub.files(NAME)["model.safetensors"] == (run.best / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/repos/create", 403, "no right to write there (403)"),
        ("/commit/", 403, "no right to write there (403)"),
        ("/commit/", 409, "busy with another change"),
        ("/commit/", 507, "storage of this account is full (507)"),
        ("/info/lfs/objects/batch", 507, "storage of this account is full (507)"),
        ("/commit/", 412, "somebody else changed"),
        ("/commit/", 418, "the Hub answers 418"),
    ],
)
def test_i03_short_reasons(run: Run, hub: HubStandIn, path: str, status: int, reason: str) -> None:
    hub.fail("POST", path, status)
    assert reason in refused(run, EnvironmentFault)


def test_i03_another_owner(run: Run, hub: HubStandIn) -> None:
    assert "no right to write there" in refused(run, EnvironmentFault, "bob/model")
    assert "bob/model" not in hub.repositories


@pytest.mark.parametrize(
    "name", ["reviews", "a/b/c", "alice/my model", "alice/.x", "alice/a--b", "alice/x.git", "", "/"]
)
def test_i05_the_rule_for_names(run: Run, hub: HubStandIn, name: str) -> None:
    assert "Write owner/name" in refused(run, RecipeError, name)
    assert hub.requests == []


def test_i06_a_hub_without_xet_gets_the_weights_by_lfs(
    run: Run, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    assert pushed(run).state == "pushed"
    assert hub.asked("xet-write-token") == 1  # it was tried
    assert hub.files(NAME)["model.safetensors"] == (run.best / "model.safetensors").read_bytes()


def test_i07_metadata_that_the_hub_refuses(run: Run, hub: HubStandIn) -> None:
    hub.fail("POST", "/validate-yaml", 400)
    assert "metadata of README.md" in refused(run, ModelError)


def test_i08_a_second_push_changes_nothing(run: Run, hub: HubStandIn) -> None:
    first = pushed(run)
    again = pushed(run)
    assert again.state == "already up to date" and again.commit == first.commit
    assert len(hub.repositories[NAME].commits) == 2  # the empty one of its creation, and ours
    assert hub.asked("/commit/") == 1 and hub.asked("PUT /lfs/") == 1


def test_files_of_an_earlier_push_go_and_those_of_others_stay(
    run: Run, hub: HubStandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed(run)
    stored = hub.files(NAME)
    stored |= {"model-00001-of-00002.safetensors": b"old", "LICENSE": b"theirs", ".gitattributes": b"*"}
    done = push(run.folder, NAME, progress=Progress())
    assert done.state == "pushed" and done.deleted == ("model-00001-of-00002.safetensors",)
    assert set(hub.files(NAME)) == {*done.files, "LICENSE", ".gitattributes"}
    assert "deletes from an earlier push: model-00001" in capsys.readouterr().err


def test_who_may_read_is_never_changed(run: Run, hub: HubStandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert not pushed(run, public=True).private and not hub.repositories[NAME].private
    assert "is there already, and public" in refused(run, RecipeError)
    pushed(run, "alice/hidden")
    done = pushed(run, "alice/hidden", public=True)
    assert done.private and hub.repositories["alice/hidden"].private
    assert "stays private" in capsys.readouterr().err


# ---- there and back


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Several labels a document, windows, and a threshold for each label."""
    folder = tmp_path_factory.mktemp("hub")
    random = np.random.default_rng(3)
    rows = []
    for number in range(240):
        labels = sorted({str(random.choice(list(WORDS))) for _ in range(1 + number % 2)})
        words = [word for label in labels for word in WORDS[label].split()]
        rows.append({"text": f"{number} " + " ".join(random.choice(words, size=5 + number % 20)), "label": labels})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    tiny_bert_folder(folder / "bert", texts=list(WORDS.values()))
    recipe: dict[str, object] = {
        "task": "text-classification", "model": {"name": "bert"}, "data": {
            "source": "rows.jsonl", "multi_label": True, "split": {"train": 0.4, "validation": 0.4, "test": 0.2},
        },
        "windows": {"max_tokens": 16, "stride": 4},
        "training": {"num_train_epochs": 1, "learning_rate": 3e-3, "use_cpu": True},
        "evaluation": {"baselines": [], "bootstrap": 0},
    }  # fmt: skip
    return train(check_recipe(YamlText(name="r.yaml", values=recipe), base=folder, name="r"), folder=folder / "run")


def test_a_pulled_classifier_predicts_the_same(
    trained: Run, hub: HubStandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    done = pushed(trained)
    texts = ["lovely cold", "waiting " * 40, "bright " * 20 + "rude " * 20]
    here, there = Predictor.load(trained.folder), Predictor.load(f"hub:{NAME}")
    assert here.predict(texts) == there.predict(texts)
    assert here.windows == there.windows and here.labels == there.labels
    assert here.thresholds is not None and here.thresholds.tolist() != [0.5] * 3
    assert there.thresholds is not None and there.thresholds.tolist() == here.thresholds.tolist()
    card = hub.files(NAME)["README.md"].decode()
    assert all(f"{value:.3f}" in card.split("| label | threshold |")[1] for value in here.thresholds)
    assert done.commit is not None
    path = find_saved_model(f"hub:{NAME}", progress=Progress())
    assert f"hub:{NAME} is commit {done.commit[:12]} of the Hub's cache" in capsys.readouterr().err
    assert path.name == done.commit


def test_a_pulled_model_is_trained_on(trained: Run, hub: HubStandIn, tmp_path: Path) -> None:
    first = pushed(trained)
    (trained.best / "generation_config.json").write_text("{}")
    try:
        second = pushed(trained)
    finally:
        (trained.best / "generation_config.json").unlink()
    assert second.commit != first.commit
    found = find_model(f"{NAME}@{first.commit}", base=tmp_path)
    assert found.origin == "hub" and found.path.name == first.commit
    assert find_model(NAME, base=tmp_path, revision=second.commit).path.name == second.commit
    assert find_model(f"{NAME}@{first.commit}", base=tmp_path).origin == "hub cache"
    with pytest.raises(ModelError, match=r"model.revision: is 'main', and model.name ends in '@v1'"):
        find_model(f"{NAME}@v1", base=tmp_path, revision="main")
    with pytest.raises(ModelError, match="Write USER/NAME@REVISION"):
        find_model(f"{NAME}@", base=tmp_path)
    with pytest.raises(ModelError, match="no revision 'nosuch'"):
        find_model(f"{NAME}@nosuch", base=tmp_path)
    folder = tiny_bert_folder(tmp_path / "a@b")
    assert find_model("a@b", base=tmp_path).path == folder == find_model("./a@b", base=tmp_path).path


def test_a_pulled_writer_has_its_template_and_settings(hub: HubStandIn, tmp_path: Path) -> None:
    run = tiny_writer_run(tmp_path / "run", form="pairs")
    finished_writer(run.best, "pairs", temperature=1.0)
    (run.best / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    pushed(scored(run))
    assert "hub:alice/reviews --prompt" in hub.files(NAME)["README.md"].decode()
    here, there = TextPredictor.load(run.best), TextPredictor.load(f"hub:{NAME}")
    assert here.settings == there.settings
    assert there.model.tokenizer.chat_template == "{{ messages[0]['content'] }}"
    assert here.write(["Long ago"])[0].text == there.write(["Long ago"])[0].text


def test_an_adapter_goes_alone_or_merged_into_its_base(hub: HubStandIn, tmp_path: Path) -> None:
    recipe = classifier_recipe(tmp_path, model={"name": "alice/base@main"})
    stored = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    hub.repositories["alice/base"] = Repository(private=False, commits=[("b" * 40, stored)])
    run = train(recipe, folder=tmp_path / "run")
    texts = ["17 fine lovely clean", "23 dirty cold rude", "5 warm broken"]
    here = [each.probabilities for each in Predictor.load(run.folder).predict(texts)]

    done = pushed(run, what="adapter")
    assert "adapter_model.safetensors" in done.files and "model.safetensors" not in done.files
    card = hub.files(NAME)["README.md"].decode()
    values = ModelCard(card).data.to_dict()
    assert values["library_name"] == "peft" and values["base_model"] == "alice/base"
    assert [each.probabilities for each in Predictor.load(f"hub:{NAME}").predict(texts)] == here

    whole = pushed(run, what="merged")
    assert "model.safetensors" in whole.files and whole.deleted == ("adapter_config.json", "adapter_model.safetensors")
    card = hub.files(NAME)["README.md"].decode()
    assert "worked into its base" in card and "library_name: transformers" in card
    assert weights_sha256(run.best) in card  # of the adapter that was scored
    there = Predictor.load(f"hub:{NAME}@{whole.commit}").predict(texts)
    for mine, theirs in zip(here, there, strict=True):
        assert theirs.probabilities == pytest.approx(mine, abs=1e-5)
    assert not list(run.folder.glob(".push*"))

    settings = json.loads((run.best / "finetune.json").read_text(encoding="utf-8"))
    settings["adapter"]["base"] |= {"name": "../../base", "is_folder": True}
    write_json(run.best / "finetune.json", settings)
    assert "Push --what merged" in refused(run, ModelError)


def test_a_private_model_needs_the_token(run: Run, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed(run)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ModelError, match=r"hub:alice/reviews: no model 'alice/reviews' on the Hub.*HF_TOKEN"):
        find_saved_model(f"hub:{NAME}")


def test_names_of_finished_models_that_are_none(hub: HubStandIn, tmp_path: Path) -> None:
    folder = tiny_bert_folder(tmp_path / "bert")
    hub.repositories["alice/plain"] = Repository(private=False)
    hub.repositories["alice/plain"].commits.append(
        ("1" * 40, {path.name: path.read_bytes() for path in folder.iterdir()})
    )
    with pytest.raises(ModelError, match=r"has no finetune\.json"):
        find_saved_model("hub:alice/plain")
    with pytest.raises(ModelError, match="no revision 'nosuch'"):
        find_saved_model("hub:alice/plain@nosuch")
    with pytest.raises(ModelError, match="neither a folder nor a Hub name"):
        find_saved_model("hub:two words")
    with pytest.raises(ModelError, match="Write USER/NAME@REVISION"):
        find_saved_model("hub:alice/plain@")


def test_a_download_that_broke_off_is_finished(run: Run, hub: HubStandIn, tmp_path: Path) -> None:
    pushed(run)
    path = find_saved_model(f"hub:{NAME}")
    (path / "tokenizer_config.json").unlink()
    assert (find_saved_model(f"hub:{NAME}") / "tokenizer_config.json").is_file()
