"""Bars: redrawn on a terminal, a few lines in a log file, nothing when quiet or quick."""

from __future__ import annotations

import io

import pytest

from finetune.progress import Progress, write


class Screen(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """tqdm's time, to be set by the test."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def drawn(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], *, terminal: bool, seconds: int, quiet: bool = False
) -> str:
    """What a bar writes over so many steps of a second, with a second bar inside as evaluation has."""
    screen = Screen(terminal=terminal)
    monkeypatch.setattr("sys.stderr", screen)
    told = Progress(quiet=quiet)
    with told.bar(total=seconds, desc="training", unit="step") as bar:
        for second in range(seconds):
            clock[0] += 1
            bar.update(1)
            if second == seconds // 2:
                with told.bar(total=3, desc="evaluating", unit="document", leave=False) as inner:
                    inner.update(3)
    return screen.getvalue()


def test_a_log_file_gets_a_line_every_half_minute(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    text = drawn(monkeypatch, clock, terminal=False, seconds=200)
    lines = text.splitlines()
    assert 5 <= len(lines) <= 8
    assert all(line.startswith("training: ") and "step/s" in line for line in lines)
    assert "\r" not in text and "\x1b" not in text and "" not in lines
    assert "200/200" in lines[-1]


def test_what_is_quick_leaves_no_line_in_a_log(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    assert drawn(monkeypatch, clock, terminal=False, seconds=20) == ""


def test_a_terminal_sees_it_move(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    text = drawn(monkeypatch, clock, terminal=True, seconds=20)
    assert text.count("\r") > 15 and "training" in text and "20/20" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_is_quiet(monkeypatch: pytest.MonkeyPatch, clock: list[float], terminal: bool) -> None:
    assert drawn(monkeypatch, clock, terminal=terminal, seconds=200, quiet=True) == ""


def test_warnings_are_shown_even_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    told = Progress(quiet=True)
    told.say("hello")
    told.warn("mind the gap")
    assert capsys.readouterr().err == "warning: mind the gap\n"


def test_what_the_terminal_cannot_show_is_escaped() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    write(stream, "label 好")
    assert raw.getvalue() == b"label \\u597d\n"
