"""The tasks, by the name a recipe gives them."""

from __future__ import annotations

from finetune.tasks.base import Task
from finetune.tasks.text_classification import TextClassification

TASKS: dict[str, type[Task]] = {TextClassification.name: TextClassification}
