"""So that `python -m finetune` and `accelerate launch -m finetune` are the same command as `finetune`."""

from __future__ import annotations

from finetune.cli import console

# A worker process that is spawned imports this file again, under another name, and must not start over.
if __name__ == "__main__":
    console()
