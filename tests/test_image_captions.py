"""Captions: templates filled in, and sentence embeddings made as the packaged encoder's authors make them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import TEXTS, tiny_bert_folder
from transformers import AutoModel, AutoTokenizer

from finetune.errors import DataError
from finetune.image.captions import caption_of, embed_texts


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("encoder") / "bert")


def test_embeddings_are_means_over_tokens_of_length_one(encoder: Path) -> None:
    rows = embed_texts(TEXTS, encoder_name=encoder.name, base=encoder.parent)
    assert rows.dtype == np.float32
    assert rows.shape == (len(TEXTS), 16)
    model, tokenizer = AutoModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
    for text, row in zip(TEXTS, rows, strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double().numpy()
        mean = states.mean(axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)


def test_a_row_does_not_depend_on_the_other_texts(encoder: Path) -> None:
    together = embed_texts([TEXTS[0], TEXTS[3], TEXTS[0]], encoder_name=str(encoder))
    assert np.array_equal(together[0], together[2])
    np.testing.assert_allclose(together[1], embed_texts([TEXTS[3]], encoder_name=str(encoder))[0], atol=1e-6)
    assert embed_texts([], encoder_name=str(encoder)).shape == (0, 16)


def test_a_caption_that_is_empty_or_too_long_is_refused(encoder: Path) -> None:
    with pytest.raises(DataError, match="a caption is empty"):
        embed_texts(["a film", "  "], encoder_name=str(encoder))
    with pytest.raises(DataError, match=r"102 tokens, and .* reads 64"):
        embed_texts(["film " * 100], encoder_name=str(encoder))


def test_a_caption_says_the_word_of_its_label() -> None:
    assert caption_of("a handwritten {label}", "7", words={"7": "seven"}) == "a handwritten seven"
    assert caption_of("{label} and {label} {0}", "x", words={}) == "x and x {0}"
