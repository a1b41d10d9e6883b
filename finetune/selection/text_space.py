"""What a search over a writer's settings may not vary: what would give each of its trials a measure of its own."""

from __future__ import annotations

from collections.abc import Iterator

from finetune.errors import Collector, RecipeError
from finetune.recipe import WriterRecipe
from finetune.recipe_file import LoadedRecipe
from finetune.scores.text_metrics import LOSS_METRICS
from finetune.search_space import Search

# These change what a token is.
TOKENS = {"model.name", "model.revision", "model.from_scratch.tokenizer", "model.from_scratch.vocab_size"}
# These change which text the loss is over, or which text is to be written.
LEARNT_TEXT = {"windows.completions_only", "windows.max_target_tokens"}
REFERENCES = {"generation.prompt_tokens"}


def check_text_space(loaded: LoadedRecipe, space: Search) -> None:
    """Raises RecipeError with every setting of a writer's space that its metric cannot compare; others pass."""
    if not isinstance(loaded.recipe, WriterRecipe):
        return
    problems, metric = Collector(RecipeError), loaded.recipe.training.metric_for_best_model
    for name in space.space:
        for what, do in _faults(name, metric):
            problems.add(loaded.where("search", "space", name), what, do)
    problems.raise_if_any()


def _faults(name: str, metric: str) -> Iterator[tuple[str, str]]:
    choose, of_loss = "Choose another training.metric_for_best_model", metric in LOSS_METRICS
    if name == "generation.seed":
        yield "only draws other texts: the best of them is luck", "Leave it out of the space."
    elif name.startswith("generation.") and of_loss:
        yield f"does not change {metric}, by which the trials are compared", f"{choose}: chrf."
    elif name in REFERENCES:
        yield f"{metric} would be of other texts in each trial", "Leave it out of the space."
    elif name in TOKENS and metric in ("loss", "perplexity"):
        yield f"{metric} is per token, and these models cut text into other tokens", f"{choose}: nats_per_character."
    elif name in LEARNT_TEXT and of_loss:
        yield f"{metric} would be over other text in each trial", f"{choose}: chrf."
