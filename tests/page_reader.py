"""Reads a page of the report as a strict reader would, for the tests."""

from __future__ import annotations

from html.parser import HTMLParser

from finetune.report.page import VOID_ELEMENTS


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in its turn. Keeps what the tests ask for."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []  # what a reader sees
        self.ours: list[str] = []  # of these, what is not marked as another language
        self.foreign: list[int] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((name, dict(attributes)))
        assert len(dict(attributes)) == len(attributes), f"<{name}> has an attribute twice"
        if name not in VOID_ELEMENTS:
            self.open.append(name)
            if name != "html" and "lang" in dict(attributes):
                self.foreign.append(len(self.open))

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((name, dict(attributes)))

    def handle_endtag(self, name: str) -> None:
        assert self.open and self.open[-1] == name, f"</{name}> closes {self.open[-1:]}"
        if self.foreign and self.foreign[-1] == len(self.open):
            self.foreign.pop()
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style" and data.strip():
            self.texts.append(data)
            if not self.foreign:
                self.ours.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def values(self, attribute: str) -> list[str]:
        return [found[attribute] or "" for _, found in self.seen if attribute in found]
