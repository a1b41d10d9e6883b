"""The report in a real browser: nothing runs, nothing is fetched, nothing is wider than a phone or a sheet of paper.

A page without scripts cannot be asked for its width, so a page of ours holds every report in frames and asks.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_reports import (
    LABELS,
    SCRIPT,
    tiny_comparison,
    tiny_crossval,
    tiny_run,
    tiny_search,
    tiny_seeds,
    tiny_writer_run,
)

from finetune.report.comparison_page import render_comparison
from finetune.report.many_pages import render_crossval, render_search, render_seeds
from finetune.report.run_page import render_run

PHONE, DESKTOP, PAPER = 360, 1280, 688  # pixels of CSS; paper is A4 less the margins of the style
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
LONG_LABELS = (*LABELS, "无法避免的很长的标签", "w" * 150, "e", "f", "g", "h")
ASK = """
onload = () => {
  const answers = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement, boxes = [...page.querySelectorAll(".scroll")];
    answers[frame.name] = {
      wide: root.scrollWidth - root.clientWidth,
      clipped: boxes.filter(box => box.scrollWidth > box.clientWidth + 1).map(box => box.innerText.slice(0, 60)),
      outside: [...page.querySelectorAll("main *")].filter(each =>
        !each.closest(".scroll") && each.getBoundingClientRect().right > root.clientWidth + 1
      ).map(each => each.outerHTML.slice(0, 80)),
      scripts: page.querySelectorAll("script, img").length,
      fetched: frame.contentWindow.performance.getEntriesByType("resource").length,
      text: page.body.innerText,
    };
  }
  document.body.textContent = "ANSWERS" + JSON.stringify(answers) + "END";
};
"""


@dataclass(frozen=True)
class Browser:
    path: str
    profile: Path

    def run(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """One headless start; what the page says on its console goes to stderr."""
        fixed = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
            *("--disable-background-networking", "--disable-dev-shm-usage", "--enable-logging=stderr"),
            f"--user-data-dir={self.profile}",
        )
        return subprocess.run(
            [self.path, *fixed, *flags], capture_output=True, text=True, timeout=120, check=False, errors="replace"
        )

    def measured(self, frames: dict[str, tuple[str, int]], folder: Path) -> dict[str, dict[str, Any]]:
        """What pages in frames of a width say of themselves: name -> (html, width)."""
        shown = "".join(
            f'<iframe name="{name}" width="{width}" height="900" srcdoc="{html.escape(page)}"></iframe>'
            for name, (page, width) in frames.items()
        )
        outer = folder / "frames.html"
        outer.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{shown}<script>{ASK}</script>", encoding="utf-8")
        done = self.run("--dump-dom", "--window-size=1400,1000", outer.as_uri())
        found = re.search("ANSWERS(.*)END", done.stdout, flags=re.DOTALL)
        assert found, done.stderr[-2000:]
        answers: dict[str, dict[str, Any]] = json.loads(html.unescape(found[1]))
        return answers


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser on PATH: none of {', '.join(NAMES)}")
    return Browser(path, tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    run = tiny_run(folder / "run", labels=LONG_LABELS)
    return {
        "run": render_run(run, "en"),
        "run-zh": render_run(run, "zh"),
        "writer": render_run(tiny_writer_run(folder / "writer", metric="loss", form="pairs", epochs=12), "en"),
        "writer-zh": render_run(tiny_writer_run(folder / "writer-zh"), "zh"),
        "trial": render_run(tiny_run(folder / "trial", test=False), "en"),
        "comparison": render_comparison(tiny_comparison(("a", "b", SCRIPT)), folder, "en"),
        "crossval": render_crossval(tiny_crossval(("a", SCRIPT)), folder, "zh"),
        "seeds": render_seeds(tiny_seeds(), folder, "en"),
        "search": render_search(tiny_search(), folder, "en"),
    }


@pytest.fixture(scope="module")
def answers(browser: Browser, pages: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every page at the width of a phone, of a desktop, and on paper, where the style for print holds."""
    frames = {}
    for name, page in pages.items():
        frames[f"{name} phone"] = (page, PHONE)
        frames[f"{name} desktop"] = (page, DESKTOP)
        frames[f"{name} paper"] = (page.replace("@media print{", "@media all{"), PAPER)
    found = browser.measured(frames, tmp_path_factory.mktemp("frames"))
    assert found.keys() == frames.keys()
    return found


@pytest.mark.slow
def test_nothing_is_wider_than_its_screen(answers: dict[str, dict[str, Any]]) -> None:
    assert {name: (answer["wide"], answer["outside"]) for name, answer in answers.items()} == {
        name: (0, []) for name in answers
    }


@pytest.mark.slow
def test_no_table_is_clipped_on_paper(answers: dict[str, dict[str, Any]]) -> None:
    clipped = {name: answer["clipped"] for name, answer in answers.items() if name.endswith("paper")}
    assert not {name: tables for name, tables in clipped.items() if tables}


@pytest.mark.slow
def test_a_label_that_is_a_script_is_shown_not_run(answers: dict[str, dict[str, Any]]) -> None:
    for name, answer in answers.items():
        assert answer["scripts"] == 0 and answer["fetched"] == 0, name
        assert SCRIPT in answer["text"], name


@pytest.mark.slow
def test_the_measure_sees_faults(browser: Browser, pages: dict[str, str], tmp_path: Path) -> None:
    broken = pages["run"].replace("</main>", '<div style="width:2000px">wide</div></main>')
    loading = pages["run"].replace("</main>", '<img src="x.png"></main>')
    answers = browser.measured({"broken": (broken, PHONE), "loading": (loading, PHONE)}, tmp_path)
    assert answers["broken"]["wide"] > 1000 and answers["broken"]["outside"]
    assert answers["loading"]["scripts"] == 1


@pytest.mark.slow
def test_the_page_loads_without_a_complaint_and_prints(browser: Browser, pages: dict[str, str], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(pages["run"], encoding="utf-8")
    picture, paper = tmp_path / "report.png", tmp_path / "report.pdf"
    shown = browser.run(f"--screenshot={picture}", "--window-size=1280,900", page.as_uri())
    assert "CONSOLE" not in shown.stderr, shown.stderr
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
    browser.run("--no-pdf-header-footer", f"--print-to-pdf={paper}", page.as_uri())
    assert paper.read_bytes().startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes())) >= 3
