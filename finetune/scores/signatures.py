"""Which tokeniser a stored BLEU was counted with: read from sacrebleu's signature beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from finetune.scores.bleu_tokenizers import BLEU_TOKENIZERS, bleu_tokenizer_for


def bleu_tokenizer_of(signatures: Mapping[str, str], texts: Iterable[str]) -> str:
    """The name in BLEU_TOKENIZERS that the signature of `bleu` says (`nrefs:1|case:mixed|eff:no|tok:zh|...`), whatever
    version of it; where there is none, or an unknown one, by the script of the texts.
    """
    parts = dict(part.partition(":")[::2] for part in signatures.get("bleu", "").split("|"))
    counted = parts.get("tok", "")
    named = (name for name in BLEU_TOKENIZERS if counted == name or counted.startswith(f"{name}-"))
    return max(named, key=len, default=None) or bleu_tokenizer_for(texts)
