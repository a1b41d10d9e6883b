"""The base of an adapter: which model it belongs to, where that is found again, and that it is still the same."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from finetune.errors import EnvironmentFault, ModelError
from finetune.hub_models import find_model
from finetune.model_folder import ADAPTER_CONFIG, MINILM_REVISION, ModelFolder, weights_sha256
from finetune.runs import MODEL_SETTINGS, Json

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Base:
    """`name` is a Hub name, with the `revision` its weights are of, or a folder; sha256 is that of the weights."""

    name: str
    revision: str | None
    sha256: str
    is_folder: bool = False

    @classmethod
    def of(cls, folder: ModelFolder, *, name: str) -> Base:
        """The base that `find_model(name)` gave."""
        sha256 = weights_sha256(folder.path)
        if folder.origin == "folder":
            return cls(str(folder.path.resolve()), None, sha256, is_folder=True)
        commit = folder.path.name if COMMIT.fullmatch(folder.path.name) else None
        plain = name.partition("@")[0]  # USER/NAME@REVISION
        return cls(plain, MINILM_REVISION if folder.origin.startswith("package ") else commit, sha256)

    def seen_from(self, adapter: Path) -> Base:
        """As it is written down beside the adapter: a folder by its way from there, without a name of this machine."""
        return replace(self, name=os.path.relpath(self.name, adapter.resolve())) if self.is_folder else self

    def to_json(self, adapter: Path) -> Json:
        """For finetune.json in that folder."""
        return asdict(self.seen_from(adapter))


def find_base(adapter: Path) -> ModelFolder:
    """The base of the adapter in a folder, checked to be the one it was trained on.

    Raises ModelError, which names the base, when it is not there or has other weights, and EnvironmentFault when the
    Hub would have to be asked for it and does not answer.
    """
    base = _read_base(adapter)
    try:
        # A folder is meant from where the adapter is; a dot before it keeps it from being taken for a Hub name.
        name = os.path.join(".", base.name) if base.is_folder and not os.path.isabs(base.name) else base.name
        folder = find_model(name, base=adapter.resolve(), revision=base.revision)
    except (ModelError, EnvironmentFault) as error:
        version = f" at revision {base.revision}" if base.revision else ""
        what = f"is an adapter of '{base.name}'{version}, which is not found ({error.problems[0].what})"
        do = "Put the base there, or export the run with --merge where it is: finetune export RUN --merge."
        raise type(error)(str(adapter), what, do) from error
    if base.sha256 and weights_sha256(folder.path) != base.sha256:
        what = f"is an adapter of '{base.name}', whose weights are others than those it was trained on"
        raise ModelError(str(adapter), what, "Restore the base, or train the adapter again.")
    return folder


def adapter_kind(folder: Path) -> str:
    """`lora`, `dora` or `qlora`, as finetune.json tells; empty where it does not."""
    return str(_read(folder / MODEL_SETTINGS).get("adapter", {}).get("kind", ""))


def _read_base(adapter: Path) -> Base:
    told = _read(adapter / MODEL_SETTINGS).get("adapter", {}).get("base")
    try:
        if told is not None:
            return Base(**told)
        # An adapter that peft alone has written.
        peft = _read(adapter / ADAPTER_CONFIG)
        return Base(str(peft["base_model_name_or_path"]), peft.get("revision"), "")
    except (KeyError, TypeError):
        raise ModelError(str(adapter), "does not say which model it is an adapter of", "Copy it again.") from None


def _read(path: Path) -> Json:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ModelError(str(path), f"is not valid JSON ({error})", "Copy the file again.") from None
    return found if isinstance(found, dict) else {}
