"""Streamed training text: every row in its turn, the same after a stop, and nothing kept on the disk."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from finetune.cleaning_steps import CleaningStep
from finetune.cli import main
from finetune.data import streams
from finetune.data.duplicates import content_hash
from finetune.data.examples import ColumnMap, Reading
from finetune.data.parts import Part
from finetune.data.streams import LEFT_OUT, DocumentStream, Portion, RowStream
from finetune.errors import DataError
from finetune.run_files import RunInfo, Scores
from finetune.runs import Run, read_json_lines
from finetune.training.streamed import StreamedTable, encoded_in_shares
from finetune.training.writing import WriterLesson

READING = Reading(ColumnMap(text="text", form="text"))


def part(name: str, rows: int) -> Part:
    return Part(name, rows=lambda: ({"text": f"{name} {row}"} for row in range(rows)))


def texts(portions: Iterator[tuple[int, Any]], count: int) -> list[tuple[int, list[str]]]:
    return [
        (place, [text for batch in rows for text in batch.column("text").to_pylist()])
        for place, rows in islice(portions, count)
    ]


@given(
    sizes=st.lists(st.integers(1, 23), min_size=1, max_size=3),
    portion=st.integers(1, 9),
    count=st.integers(1, 12),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_any_place_goes_on_as_if_nothing_had_been_between(
    sizes: list[int], portion: int, count: int, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "PORTION_ROWS", portion)
        parts = [part(f"p{number}", size) for number, size in enumerate(sizes)]
        whole = texts(RowStream(parts, READING).portions(0), count)
        every = [text for number, size in enumerate(sizes) for text in (f"p{number} {row}" for row in range(size))]
        read = [text for _, some in whole for text in some]
        assert read == [every[place % len(every)] for place in range(len(read))]
        assert [place for place, _ in whole] == [
            sum(len(some) for _, some in whole[: number + 1]) for number in range(count)
        ]
        assert all(0 < len(some) <= portion for _, some in whole)
        stop = data.draw(st.integers(0, count - 1))
        place = whole[stop - 1][0] if stop else 0
        assert texts(RowStream(parts, READING).portions(place), count - stop) == whole[stop:]


def test_the_first_rows_are_each_there_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PORTION_ROWS", 4)
    stream = RowStream([part("p", 8)], READING)
    assert len(stream.first(5)) == 8 and len(stream.first(3)) == 4
    assert len(stream.first(100)) == 8  # as far as a pass has them
    assert len(RowStream([part("p", 7)], READING).first(100)) == 7


def test_what_is_held_out_is_not_learnt_and_what_is_dropped_is_counted(tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"text": ""}, {"text": "One "}, {"text": "two"}]
    stream = RowStream([Part("p", rows=lambda: iter(rows))], READING)
    steps = [CleaningStep(name="drop_empty"), CleaningStep(name="drop_duplicates")]
    documents = DocumentStream(stream, steps[1:], tmp_path, "text", frozenset({content_hash("two")}))
    portion = next(documents.portions(0))
    assert portion.place == 4 and "two" not in portion.documents["text"] and len(portion.documents) == 2
    assert portion.dropped == {"dropped by cleaning": 1, "in validation or test": 1}
    nothing = DocumentStream(stream, [CleaningStep(name="drop_short", argument=50)], tmp_path, "text", frozenset())
    assert len(next(nothing.portions(0)).documents) == 0


def test_a_source_without_rows_is_refused() -> None:
    with pytest.raises(DataError, match="has no rows"):
        next(RowStream([Part("p", rows=lambda: iter(()))], READING).portions(0))


# ---- epochs of a stream


def numbers(rows: int, portion: int, start: int) -> Iterator[Portion]:
    """Documents 0, 1, 2 ... of a pass of `rows`; document n makes n % 3 examples."""
    place = start
    while True:
        taken = [each % rows for each in range(place, place + portion)]
        place += portion
        yield Portion(place, datasets.Dataset.from_dict({"n": taken}), dict.fromkeys(LEFT_OUT, 1))


def examples_of(documents: datasets.Dataset) -> pa.Table:
    return pa.table({"n": pa.array([n for n in documents["n"] for _ in range(n % 3)], pa.int64())})


class Opened:
    def __init__(self, table: pa.Table) -> None:
        self.values = table.column("n").to_pylist()

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, draw: Any) -> Any:
        return self.values[draw]


def table(examples: int, portion: int, counters: dict[str, float]) -> StreamedTable:
    return StreamedTable(examples, lambda place: numbers(50, portion, place), examples_of, Opened, counters)


@given(examples=st.integers(1, 30), portion=st.integers(1, 20), stop=st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_epochs_follow_each_other_without_a_gap_and_a_new_process_goes_on(
    examples: int, portion: int, stop: int
) -> None:
    counters: dict[str, float] = {}
    streamed, epochs, kept = table(examples, portion, counters), list[list[int]](), list[dict[str, float]]()
    for epoch in range(5):
        streamed.turn_to(epoch)
        epochs.append([streamed[place] for place in range(len(streamed))])
        kept.append(dict(counters))
    endless = [n % 50 for n in range(1000) for _ in range(n % 50 % 3)]
    assert [n for epoch in epochs for n in epoch] == endless[: 5 * examples]
    read = int(counters["stream_rows"])  # every portion is counted once, though two epochs may share it
    left_out = f"{read // portion:,}"
    assert read % portion == 0 and streamed.notes() == [
        f"train: {read:,} rows streamed; {left_out} dropped by cleaning, {left_out} in validation or test"
    ]
    resumed: dict[str, float] = {}
    again = table(examples, portion, resumed)
    resumed.update(kept[stop])
    again.turn_to(4)  # of a checkpoint at the end of an epoch the next one is asked for
    assert [again[place] for place in range(len(again))] == epochs[4]


def test_one_process_encodes_all() -> None:
    documents = datasets.Dataset.from_dict({"n": [1, 2]})
    assert encoded_in_shares(documents, examples_of).column("n").to_pylist() == [1, 2, 2]


# ---- a run


def recipe(folder: Path, *, rows: int = 60, **data: Any) -> str:
    for name, first, count in (("train", 0, rows), ("validation", 900, 12), ("test", 950, 12)):
        lines = [
            json.dumps({"text": f"row {first + row} says {(first + row) * 7 % 100} twice"}) for row in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    values = {
        "task": "text-generation",
        "model": {"from_scratch": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                                   "intermediate_size": 32, "vocab_size": 300, "max_position_embeddings": 32}},
        "data": {"source": {name: f"{name}.jsonl" for name in ("train", "validation", "test")}, "streaming": True,
                 "epoch_examples": 16, "near_duplicates": None, **data},
        "windows": {"max_tokens": 32},
        "generation": {"prompt_tokens": 4, "max_new_tokens": 4},
        "training": {"num_train_epochs": 3, "per_device_train_batch_size": 4, "use_cpu": True, "logging_steps": 1,
                     "learning_rate": 1e-3},
        "evaluation": {"bootstrap": 0, "baselines": ["ngram"], "sample": 4},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(values), encoding="utf-8")
    return str(folder / "recipe.yaml")


def test_a_streamed_run_is_scored_beside_its_baselines(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    assert main(["train", recipe(tmp_path), "--run", str(run.folder), "--quiet"]) == 0
    info, scores = run.read(run.info, RunInfo), run.read(run.scores, Scores)
    assert info.status == "complete" and info.steps == 12
    assert any("rows streamed; 0 dropped" in note for note in info.notes)
    assert scores.splits["test"].scores["loss"].value is not None and "ngram" in scores.baselines
    data = json.loads(run.data.read_text(encoding="utf-8"))
    assert data["files"][0]["sha256"] == "streamed" and any("streamed" in note for note in data["notes"])


@pytest.mark.parametrize(("method", "call"), [("loss", 7), ("evaluate", 2)])
def test_a_stopped_stream_ends_with_the_weights_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, call: int
) -> None:
    target = recipe(tmp_path)
    whole, parted = Run(tmp_path / "whole"), Run(tmp_path / "parted")
    assert main(["train", target, "--run", str(whole.folder), "--quiet"]) == 0
    calls, original = 0, getattr(WriterLesson, method)

    def stopping(lesson: WriterLesson, *arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:  # in the second epoch, whose examples must be read again
            os.kill(os.getpid(), signal.SIGTERM)
        return original(lesson, *arguments, **named)

    monkeypatch.setattr(WriterLesson, method, stopping)
    assert main(["train", target, "--run", str(parted.folder), "--quiet"]) == 75
    monkeypatch.undo()
    assert main(["train", str(parted.folder), "--resume", "--quiet"]) == 0
    assert read_json_lines(whole.history) == read_json_lines(parted.history)
    for model in ("best", "last"):
        one, other = (load_file(run.folder / model / "model.safetensors") for run in (whole, parted))
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"source": "train.jsonl"}, "name source"),
        ({"limit": 5}, "set epoch_examples"),
        ({"streaming": False}, "needs streaming"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: dict[str, Any], message: str
) -> None:
    assert main(["check", recipe(tmp_path, **data)]) == 2
    assert message in capsys.readouterr().err


def test_a_bad_row_is_named_when_its_turn_comes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = recipe(tmp_path, rows=1200)
    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n{broken")
    code = main(["train", target, "--run", str(tmp_path / "run"), "--quiet", "data.epoch_examples=700"])
    assert code == 2 and "train.jsonl:1201" in capsys.readouterr().err
