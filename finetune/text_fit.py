"""What the history of a writer's training says of the fit, by the rules that a classifier's is judged by.

Where those speak of labels: one who knows nothing knows how frequent each token is, and a loss of tokens is told by
sequences, of which a long document has many.
"""

from __future__ import annotations

from dataclasses import replace

from finetune.data.prepare import Prepared
from finetune.pretrained import ATTENTION_DROPOUT_FIELDS
from finetune.recipe import WriterRecipe
from finetune.run_files import FitVerdict
from finetune.runs import Run
from finetune.scores.fit_course import fit_settings
from finetune.scores.fit_verdict import judge_fit
from finetune.scores.ngram_model import NgramModel
from finetune.scores.paired import greater_is_better
from finetune.scores.token_models import mean_nats
from finetune.text_opponents import token_streams, vocabulary
from finetune.training.plan import FitResult
from finetune.writer_learner import WriterLearner

# The mean losses of sequences spread by this share of their mean: German captions .29, 64 or 256 characters of
# Shakespeare .08 to .17. The losses of single tokens spread as widely as their mean.
SPREAD_OF_SEQUENCES = 0.3


def judge_writer(
    run: Run, recipe: WriterRecipe, prepared: Prepared, learner: WriterLearner, result: FitResult
) -> FitVerdict:
    """The verdict on the training that left its history in the run folder, with recipe overrides to paste."""
    metric, history, training = recipe.training.metric_for_best_model, run.history_rows(), recipe.training
    epochs = max((float(row.get("epoch", 0)) for row in history), default=0.0)
    validation, config = learner.counts["validation"], learner.model.config
    settings = fit_settings(
        recipe,
        training_documents=len(prepared.splits["train"]),
        validation_documents=independent_losses(validation.sequences, learnt_tokens=validation.learnt_tokens),
        chance_loss=unigram_loss(learner),
        stopped_early=training.max_steps is None and epochs < training.num_train_epochs - 0.01,
    )
    takes_dropout = any(hasattr(config, field) for field in ATTENTION_DROPOUT_FIELDS)
    return judge_fit(
        history,
        metric=metric,
        greater_is_better=greater_is_better(metric),
        best_epoch=result.best_epoch,
        majority_score=None,
        settings=replace(settings, has_attention_dropout=takes_dropout),
    )


def unigram_loss(learner: WriterLearner) -> float:
    """Nats per learnt token of validation, of one who knows only how frequent each token is in train."""
    ids, learn = token_streams(learner, "train")
    model = NgramModel.fit(ids, order=1, vocab_size=vocabulary(learner), learn=learn)
    return mean_nats(model, *token_streams(learner, "validation"))


def independent_losses(sequences: int, *, learnt_tokens: int) -> int:
    """As many documents whose losses spread as widely as their mean tell a mean loss as exactly.

    A mean over n sequences of m learnt tokens has a variance, in squares of itself, of (spread^2 + 1 / m) / n.
    """
    return round(sequences / (SPREAD_OF_SEQUENCES**2 + sequences / learnt_tokens)) if learnt_tokens else sequences
