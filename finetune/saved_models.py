"""Finished models: where the one is that a user means, and what it says it does. Nothing is loaded to know it."""

from __future__ import annotations

import json
from pathlib import Path

from finetune.runs import MODEL_SETTINGS, find_run


def saved_model(folder: str | Path) -> Path:
    """A run folder's best/; best/, last/ or a copy of them as it is. Raises CheckpointError for what is neither."""
    path = Path(folder).expanduser()
    if (path / MODEL_SETTINGS).exists() or (path / "config.json").exists():
        return path
    return find_run(path).model("best")


def saved_task(model: Path) -> str:
    """The task of a saved model; empty where it does not say, which those who load it do not forgive."""
    try:
        settings = json.loads((model / MODEL_SETTINGS).read_text(encoding="utf-8"))
        return str(settings["task"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
