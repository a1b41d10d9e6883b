"""What must not be in a published file: tokens, paths and names of this machine, texts of the data; each with its line.

A vocabulary holds any word there is, so only what is certain counts in it. Of tokens nothing is ever shown.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SECRETS = (
    ("a Hub token", re.compile(r"\b(hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,})")),
    ("a GitHub token", re.compile(r"\b(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})")),
    ("an AWS key", re.compile(r"\bAKIA[0-9A-Z]{16}\b")),
    ("an API key", re.compile(r"\bsk-[A-Za-z0-9_-]{32,}")),
    ("a private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
)
ENVIRONMENT = re.compile(r"^\s*(export\s+)?[A-Z0-9_]*(TOKEN|SECRET|PASSWORD|API_KEY)\s*=\s*\S")
WINDOWS_PATH = re.compile(r"\b[A-Za-z]:\\{1,2}[A-Za-z0-9][^\s\"]*")
# Where people's files are on machines of any kind; the folders of this one come on top.
ROOTS = (
    *("home", "Users", "root", "tmp", "var", "mnt", "media", "opt", "srv", "etc", "usr", "data", "scratch"),
    *("workspace", "content", "kaggle", "private", "Volumes"),
)
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
TEXT_SUFFIXES = (".json", ".txt", ".jinja", ".md")
# Accounts that say nothing about a person, and words that a card says anyway.
NOBODY = frozenset({
    "root", "user", "users", "admin", "administrator", "ubuntu", "debian", "runner", "jovyan", "docker", "nobody",
    "work", "test", "data", "model", "models", "train", "python", "finetune", "home", "default", "guest", "vagrant",
    "azureuser", "appuser",
})  # fmt: skip
SHORTEST_NAME = 4
LETTER = r"[^\W\d_]"  # anna_reviews2.csv names anna, and banana does not
SHOWN_CHARACTERS = 60
LONGEST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Searched:
    """What is looked for besides the patterns: `certain` anywhere, `paths` and `names` outside of vocabularies."""

    certain: tuple[tuple[str, str], ...]  # what it is, and the words
    paths: re.Pattern[str]
    names: tuple[tuple[str, re.Pattern[str]], ...]
    texts: tuple[str, ...]

    @classmethod
    def here(
        cls, *, run_folder: Path, repository: str, labels: Iterable[str] = (), texts: Iterable[str] = ()
    ) -> Searched:
        """What belongs to this machine and this run; words of `repository` and `labels` are public anyway."""
        from huggingface_hub import get_token

        home, token = os.path.expanduser("~"), get_token()
        certain = [("a path of this machine", str(run_folder.resolve()))]
        certain += [("the home folder", home)] if home.count("/") > 1 else []
        certain += [("the token in use", token)] if token else []
        roots = {*ROOTS, *(name for name in os.listdir("/") if name.isidentifier())} if os.name == "posix" else ROOTS
        public = " ".join([repository, *labels])
        names = [
            (kind, re.compile(rf"(?<!{LETTER}){re.escape(name)}(?!{LETTER})"))
            for kind, name in _own_names()
            if name not in public
        ]
        path = rf"(?<![\w.:/<\\~-])/({'|'.join(sorted(map(re.escape, roots)))})/[^\s\"'`]+"
        return cls(certain=tuple(certain), paths=re.compile(path), names=tuple(names), texts=tuple(texts))


def faults_of(path: Path, searched: Searched) -> Iterator[tuple[int, str]]:
    """(1-based line, what is there) of everything in the file that must stay here; line 0 is a file without lines."""
    vocabulary = path.name in VOCABULARIES
    for number, line in _lines(path):
        for what, pattern in SECRETS:
            if pattern.search(line):
                yield number, f"holds {what}"
        for what, words in searched.certain:
            if words in line:
                yield number, f"holds {what}"
        if not vocabulary:
            yield from ((number, what) for what in _further_faults(line, searched))


def _further_faults(line: str, searched: Searched) -> Iterator[str]:
    for pattern in (searched.paths, WINDOWS_PATH):
        if found := pattern.search(line):
            yield f"holds an absolute path ({found[0][:SHOWN_CHARACTERS]})"
    if ENVIRONMENT.search(line):
        yield "holds a setting as in a .env file"
    for kind, name in searched.names:
        if name.search(line):
            yield f"holds {kind}"
    words = " ".join(line.split())
    if any(text in words for text in searched.texts):
        yield "holds a text of the data"


def _own_names() -> Iterator[tuple[str, str]]:
    """The user's and the machine's, where they say something."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number without a name
        user = ""
    if len(user) >= SHORTEST_NAME and user.lower() not in NOBODY:
        yield f"the user name {user}", user
    host = socket.gethostname()
    if len(host) > SHORTEST_NAME and re.search(r"[\d.-]", host):
        yield f"the name of this machine ({host})", host


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text; of weights their header, which may hold words of whoever saved them; of others nothing."""
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            yield 0, file.read(min(length, LONGEST_HEADER_BYTES)).decode("utf-8", "replace")
    elif path.suffix in TEXT_SUFFIXES:
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
            yield number, _readable(line, markdown=path.suffix == ".md")


def _readable(line: str, *, markdown: bool) -> str:
    """Without the backslashes of Markdown and the escapes of JSON, behind which a name could hide."""
    if markdown:
        return re.sub(r"\\([^A-Za-z0-9\s])", r"\1", line)
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), line)
