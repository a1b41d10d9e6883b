"""The commands that give the BLEU and chrF of a run again from its predictions, for a page and a card."""

from __future__ import annotations

from collections.abc import Mapping

from finetune.scores.bleu_tokenizers import BLEU_TOKENIZERS

# The command reads one text a line, so a line break inside a text becomes a space, as in our own scores.
WRITE_LINES = r"""python - <<'END'
import re, pyarrow.parquet
table = pyarrow.parquet.read_table("predictions/{split}.parquet", columns=["reference", "prediction"])
pairs = [row for row in table.to_pylist() if row["prediction"] is not None]
for name in ("reference", "prediction"):
    with open(name + ".txt", "w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(re.sub("\r\n|\r|\n", " ", row[name]) + "\n" for row in pairs)
END
"""


def scoring_command(signatures: Mapping[str, str], split: str) -> str | None:
    """Shell commands for the run folder; None where no signature says how BLEU cuts words."""
    tokenizer = bleu_tokenizer(signatures.get("bleu", ""))
    if tokenizer is None:
        return None
    score = f"sacrebleu reference.txt --input prediction.txt --metrics bleu chrf --tokenize {tokenizer} --width 6"
    return WRITE_LINES.replace("{split}", split) + score


def bleu_tokenizer(signature: str) -> str | None:
    """`ja-mecab` of `nrefs:1|case:mixed|eff:no|tok:ja-mecab-0.996-IPA|smooth:exp|version:2.6.0`."""
    fields = dict(field.partition(":")[::2] for field in signature.split("|"))
    found = fields.get("tok", "")
    return next((name for name in BLEU_TOKENIZERS if found == name or found.startswith(f"{name}-")), None)
