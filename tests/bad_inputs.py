"""How a case of the catalogue of bad inputs is written down, laid out in a folder, run as a command, and judged.

A refused case: the exit code, every line `error: where: what. do.`, no traceback, nothing trained, no file made or
changed. An accepted one: `finetune check` says what is promised, and only looks.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_bert_folder

from finetune.cli import main

ROWS = 40
TRAIN, CHECK = ("train", "recipe.yaml", "--run", "out"), ("check", "recipe.yaml")
PREPARE = ("prepare", "recipe.yaml", "--output", "out", "--format", "jsonl")
LONGEST_REFUSAL_SECONDS = 30

Files = dict[str, str | bytes]


def rows(count: int = ROWS, *, start: int = 0, labels: tuple[str, ...] = ("pos", "neg")) -> list[str]:
    """CSV rows with distinct texts and the labels in turn."""
    return [f"the film of day {start + i} is fine,{labels[i % len(labels)]}" for i in range(count)]


def table(*lines: str, header: str = "text,label", count: int = ROWS, **more: tuple[str, ...]) -> str:
    """A CSV file: the header, these lines (the first of them is line 2), then ordinary rows."""
    return "\n".join([header, *lines, *rows(count, **more)]) + "\n"  # type: ignore[arg-type]


def recipe(*, source: str = "reviews.csv", extra: str = "", training: str = "", data: str = "", model: str = "") -> str:
    """A recipe of a network that trains in a second; data starts in line 4, training in line 8."""
    scratch = (
        "from_scratch: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16, "
        "max_position_embeddings: 64, vocab_size: 300}"
    )
    return f"""task: text-classification
model:
  {model or scratch}
data:
  source: {source}
{data}windows: {{max_tokens: 64, stride: 8}}
evaluation: {{baselines: [], bootstrap: 0}}
training:
  num_train_epochs: 1
  per_device_train_batch_size: 16
  use_cpu: true
{training}{extra}"""


@dataclass(frozen=True)
class Case:
    """One row of the catalogue. `says` must all be shown: on stderr for a refusal, anywhere else for a success.

    Of accepted data, `told` must be shown by `finetune prepare` and stand in its data.json, and `keeps` are texts with
    their labels that must be among its rows.
    """

    id: str
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    says: tuple[str, ...] = ()
    code: int = 2
    argv: tuple[str, ...] = ()
    build: Callable[[Path], object] | None = None
    needs: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    keeps: tuple[tuple[str, str], ...] = ()

    def arguments(self) -> tuple[str, ...]:
        return self.argv or (TRAIN if self.code else CHECK)


def refused(id: str, files: Mapping[str, str | bytes], *says: str, **more: object) -> Case:
    return Case(id, files, says, **more)  # type: ignore[arg-type]


def accepted(id: str, files: Mapping[str, str | bytes], *says: str, **more: object) -> Case:
    return Case(id, files, says, **{"code": 0, **more})  # type: ignore[arg-type]


def reviews(*lines: str, **more: object) -> Files:
    """The table with these lines first: the first of them is line 2."""
    return {"reviews.csv": table(*lines, **more)}  # type: ignore[arg-type]


def cleaned(step: str, *lines: str) -> Files:
    """The reviews with these lines first, and a recipe with one cleaning step: in line 12."""
    return {**reviews(*lines), "recipe.yaml": recipe(extra=f"cleaning: [{step}]\n")}


def write_files(case: Case, folder: Path, *, ready: Path) -> None:
    """The case's files in `folder`, over a sound recipe and data file, with what it needs of `ready`."""
    for name in case.needs:
        shutil.copytree(ready / name, folder / name)
    for name, content in ({"recipe.yaml": recipe(), "reviews.csv": table()} | dict(case.files)).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if case.build is not None:
        case.build(folder)


def on_disk(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below `folder`, but for the lock, which holds the id of the last process."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"
    }


def settle_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A case runs in its own folder, with a user who would say yes to everything."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))


def make_ready(folder: Path) -> Path:
    """A model without a head (m), one with a head of three labels (m3), a complete run, and one said to be stopped."""
    texts = [row.split(",")[0] for row in rows()]
    tiny_bert_folder(folder / "m", texts=texts)
    tiny_bert_folder(folder / "m3", texts=texts, num_labels=3)
    (folder / "recipe.yaml").write_text(
        recipe(training="  save_total_limit: 9\n  learning_rate: 1e-3\n").replace("epochs: 1", "epochs: 3"),
        encoding="utf-8",
    )
    (folder / "reviews.csv").write_text(table(), encoding="utf-8")
    assert main(["train", str(folder / "recipe.yaml"), "--run", str(folder / "run"), "--quiet"]) == 0
    shutil.copytree(folder / "run", folder / "complete")
    edit_json(folder / "run/run.json", status="stopped")
    return folder


def edit_json(path: Path, **changes: object) -> None:
    """Set keys of a JSON file, or remove them with None."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in content.items() if value is not None or key not in changes}
    path.write_text(json.dumps(kept), encoding="utf-8")


def check_refused(case: Case, folder: Path, capfd: pytest.CaptureFixture[str], *, argv: Sequence[str]) -> None:
    """Run the command in `folder`, where the case's files are, and see it refused as the house refuses."""
    before = on_disk(folder)
    capfd.readouterr()
    started = time.monotonic()
    assert main(argv) == case.code, capfd.readouterr()
    assert time.monotonic() - started < LONGEST_REFUSAL_SECONDS, "a refusal does not wait for the Hub"
    shown = capfd.readouterr()
    problems = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    missing = [words for words in case.says if not any(words in line for line in problems)]
    assert problems and not missing, f"not said: {missing}\n{shown.err}"
    assert all(re.match(r"error: \S.*: .*[.?!]$", line) for line in problems), f"where: what. do.\n{shown.err}"
    assert shown.out == ""
    assert not any(words in shown.err for words in ("Traceback", *case.hides)), shown.err
    assert on_disk(folder) == before, "a refusal changes nothing"


def check_accepted(case: Case, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Run `finetune check`, or the case's own command, and see all said and nothing changed."""
    before = on_disk(folder)
    capfd.readouterr()
    code = main(case.arguments())
    shown = capfd.readouterr()
    assert code == 0, shown.err
    assert "recipe, data and model fit together" in shown.out
    missing = [words for words in case.says if words not in shown.out + shown.err]
    assert not missing, f"not said: {missing}\n{shown.out}\n{shown.err}"
    assert "error" not in shown.err
    assert on_disk(folder) == before, "check only looks"


def check_prepared(case: Case, capfd: pytest.CaptureFixture[str]) -> None:
    """Run `finetune prepare` here, and look at what it shows, at data.json, and at the rows."""
    capfd.readouterr()
    assert main(PREPARE) == 0, capfd.readouterr().err
    shown, report = capfd.readouterr(), read_json("out/data.json")
    examples = [example["before"] for step in report["cleaning"] for example in step["examples"]]
    written = "\n".join([*report["warnings"], *report["notes"], *examples])
    assert not [words for words in case.told if words not in written], written
    # What a step changed is shown where it is asked for; the rest always.
    if hidden := [words for words in case.told if words not in shown.out + shown.err]:
        assert main([*PREPARE, "--force", "--show", "5"]) == 0
        again = capfd.readouterr().out
        assert not [words for words in hidden if not (words in again and words in examples)], again
    kept = [row for row, _ in prepared_rows()]
    assert not [row for row in case.keeps if row not in kept], kept


def read_json(path: str) -> dict[str, Any]:
    return dict(json.loads(Path(path).read_text(encoding="utf-8")))


def prepared_rows() -> list[tuple[tuple[str, str], str]]:
    """((text, label), split) of every row that PREPARE wrote."""
    return [
        ((row["text"], row["label"]), path.stem)
        for path in sorted(Path("out").glob("*.jsonl"))
        for row in map(json.loads, path.read_text(encoding="utf-8").rstrip("\n").split("\n"))
    ]
