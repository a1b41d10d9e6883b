"""The documents: every recipe in them is accepted, every link in them leads somewhere, every file has its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from finetune.recipe_file import check_recipe
from finetune.yaml_text import read_yaml

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "data" / "README.md", ROOT / "benchmarks" / "README.md"]
BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s:]+)(?:#([^)\s]*))?\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def recipes() -> list[tuple[str, str]]:
    """Every YAML block that is a whole recipe, with the name of its page."""
    blocks = [(page.name, block) for page in PAGES for block in BLOCK.findall(page.read_text(encoding="utf-8"))]
    return [(name, block) for name, block in blocks if re.search(r"^task:", block, re.MULTILINE)]


@pytest.mark.parametrize(("page", "text"), recipes(), ids=lambda part: part if part.endswith(".md") else "")
def test_a_recipe_in_a_document_is_accepted(page: str, text: str) -> None:
    loaded = check_recipe(read_yaml(text, name=page), base=ROOT, name=page)
    assert loaded.recipe.data.source


def test_there_are_recipes_of_every_task_in_the_documents() -> None:
    told = "\n".join(text for _, text in recipes())
    assert all(f"task: {task}" in told for task in ("text-classification", "text-generation", "seq2seq"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_documents_resolve(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        file = (page.parent / target).resolve()
        assert file.exists(), f"{page.name}: {target}"
        if anchor and file.suffix == ".md":
            headings = [anchor_of(heading) for heading in HEADING.findall(file.read_text(encoding="utf-8"))]
            assert anchor in headings, f"{page.name}: {target}#{anchor}"


def anchor_of(heading: str) -> str:
    """As GitHub makes it: lower case, words joined by hyphens, without signs."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
