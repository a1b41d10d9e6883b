"""`finetune push` and `predict hub:USER/NAME` from the command line: what is shown, what is returned, and for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from finished_writers import finished_classifier, finished_writer
from hub_stand_in import TOKEN, HubStandIn, connect, hub_stand_in, scored
from tiny_reports import tiny_run, tiny_writer_run

from finetune import hub as hub_of_ours
from finetune.cli import main
from finetune.experiment import train
from finetune.image_predictor import ImagePredictor
from finetune.predict import Predictor
from finetune.progress import size_text
from finetune.recipe_file import check_recipe
from finetune.runs import Run
from finetune.yaml_text import YamlText

NAME = "alice/reviews"
HOUSE = Path(__file__).resolve().parent.parent


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    monkeypatch.setattr(hub_of_ours, "WAITING_SECONDS", (0.0, 0.0, 0.0))
    with hub_stand_in() as stand_in:
        connect(monkeypatch, stand_in, cache=tmp_path / "cache")
        yield stand_in


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = tiny_run(tmp_path / "run")
    finished_classifier(run.best)
    (run.best / ".env").write_text("SECRET=1")
    return scored(run)


def test_a_dry_run_lists_and_asks_nothing(run: Run, hub: HubStandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run.folder), NAME, "--dry-run"]) == 0
    shown, said = capsys.readouterr()
    lines = shown.splitlines()
    assert lines[0] == "alice/reviews (private), best:"
    size = size_text((run.best / "model.safetensors").stat().st_size)
    assert [line.split() for line in lines if "model.safetensors" in line] == [["model.safetensors", *size.split()]]
    assert "  6 files, " in shown and "stays here: .env" in lines
    assert "nothing was uploaded" in said
    assert hub.requests == []
    assert main(["push", str(run.folder), NAME, "--dry-run", "--public", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["state"] == "dry run" and told["private"] is False and told["commit"] is None
    assert told["files"]["model.safetensors"] == (run.best / "model.safetensors").stat().st_size


def test_a_push_lists_first_and_says_where_it_is(run: Run, hub: HubStandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run.folder), NAME]) == 0
    shown, said = capsys.readouterr()
    commit = hub.repositories[NAME].commits[-1][0]
    assert shown == f"pushed: {hub.url}/alice/reviews (private, commit {commit})\n"
    assert "alice/reviews (private), best:" in said and "stays here: .env" in said
    assert "No files have been modified" not in said
    assert main(["push", str(run.folder), NAME, "--quiet"]) == 0
    shown, said = capsys.readouterr()
    assert shown.startswith("already up to date: ") and said == ""  # I08


def test_what_is_refused_has_its_exit_code(
    run: Run, hub: HubStandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fail("POST", "/commit/", 503, times=4)
    assert main(["push", str(run.folder), NAME]) == 5
    assert "trying again" in (said := capsys.readouterr().err) and "the same command goes on" in said
    assert main(["push", str(run.folder), "no name"]) == 2
    assert main(["push", str(run.folder), NAME, "--what", "adapter"]) == 2
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", str(run.folder), NAME]) == 5
    said = capsys.readouterr().err
    assert "error: push: HF_TOKEN is missing" in said and TOKEN not in said and "Traceback" not in said
    with pytest.raises(SystemExit) as caught:
        main(["push", str(run.folder), NAME, "--what", "wurst"])
    assert caught.value.code == 2


def test_predict_takes_a_model_from_the_hub(run: Run, hub: HubStandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run.folder), NAME, "--quiet"]) == 0
    assert main(["predict", str(run.folder), "--text", "a good film", "--json"]) == 0
    here = capsys.readouterr().out.splitlines()[-1]
    assert main(["predict", f"hub:{NAME}", "--text", "a good film", "--json"]) == 0
    shown, said = capsys.readouterr()
    assert shown == here + "\n"
    assert "hub:alice/reviews is commit" in said
    asked = len(hub.requests)
    assert main(["predict", f"hub:{NAME}@main", "--text", "a good film", "--json"]) == 0
    assert len(hub.requests) == asked  # what is in the cache asks nobody
    assert main(["predict", "hub:alice/nosuch", "--text", "a"]) == 2
    assert "hub:alice/nosuch: no model 'alice/nosuch' on the Hub" in capsys.readouterr().err


def test_predict_writes_with_a_model_from_the_hub(
    hub: HubStandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_writer_run(tmp_path / "run", form="pairs")
    finished_writer(run.best, "pairs")
    scored(run)
    assert main(["push", str(run.folder), NAME, "--quiet"]) == 0
    capsys.readouterr()
    assert main(["predict", str(run.best), "--prompt", "Long ago"]) == 0
    here = capsys.readouterr().out
    assert main(["predict", f"hub:{NAME}", "--prompt", "Long ago"]) == 0
    assert capsys.readouterr().out == here


def test_an_image_model_goes_there_and_back(
    hub: HubStandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values: dict[str, object] = {
        "task": "image-generation", "model": {"vae": {"width": 4, "latent_size": 4}},
        "data": {"source": "builtin:digits", "limit": 64, "split": {"stratify": False}},
        "image": {"size": 8, "condition": "none"},
        "training": {"num_train_epochs": 1, "use_cpu": True},
        "evaluation": {"features": "pixels", "shown": 20, "bootstrap": 0, "baselines": []}, "report": {"examples": 0},
    }  # fmt: skip
    run = train(check_recipe(YamlText(name="r.yaml", values=values), base=tmp_path, name="r"), folder=tmp_path / "run")
    assert main(["push", str(run.folder), NAME, "--quiet"]) == 0
    assert set(hub.files(NAME)) == {"README.md", "config.json", "finetune.json", "model.safetensors"}
    card = hub.files(NAME)["README.md"].decode()
    assert f"finetune sample hub:{NAME}" in card and "PATH" not in card
    compile(card.split("```python\n")[1].split("```")[0], "card", "exec")
    here, there = ImagePredictor.load(run.folder), ImagePredictor.load(f"hub:{NAME}")
    assert np.array_equal(here.draw(5, seed=3), there.draw(5, seed=3))
    for name, target in (("here", str(run.folder)), ("there", f"hub:{NAME}")):
        assert main(["sample", target, "--count", "4", "--output", str(tmp_path / name), "--quiet"]) == 0
    drawn = [sorted(path.read_bytes() for path in (tmp_path / name).rglob("*.png")) for name in ("here", "there")]
    assert drawn[0] == drawn[1] and len(drawn[0]) >= 4


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (90_868_376, "90.9 MB"), (1.6e13, "16.0 TB")]
)
def test_sizes_for_people(size: float, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.slow
def test_for_real_in_a_process_of_its_own(run: Run, tmp_path: Path) -> None:
    """With the environment as a user sets it, which the client reads once, when it is imported."""
    with hub_stand_in() as hub:
        changed = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}

        def finetune(*words: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "finetune", *words]
            return subprocess.run(
                command,
                cwd=HOUSE,
                env=dict(os.environ) | changed,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )

        push = finetune("push", str(run.folder), NAME)
        assert push.returncode == 0, push.stderr
        assert hub.asked("xet-write-token") == 1 and push.stdout.startswith("pushed: ")
        pulled = finetune("predict", f"hub:{NAME}", "--text", "a good film", "--json")
        assert pulled.returncode == 0, pulled.stderr
        here = Predictor.load(run.folder).predict(["a good film"])[0]
        assert json.loads(pulled.stdout)["probabilities"] == pytest.approx(here.probabilities)
        assert TOKEN not in push.stdout + push.stderr + pulled.stderr
