"""Tokenizers learnt from the training split, for models that are built from scratch.

Whatever the order of the texts and whichever the process, the same texts give the same tokenizer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from finetune.errors import DataError, RecipeError
from finetune.recipe_model import CausalFromScratch, FromScratch, Seq2SeqFromScratch

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# Padding has a token of its own, never learnt, so that the end of a text can be.
PADDING, END_OF_TEXT, UNKNOWN = "<pad>", "<|endoftext|>", "<unk>"
BYTES = 256


def train_tokenizer(texts: Iterable[str], section: FromScratch) -> PreTrainedTokenizerFast:
    """A lower-casing tokenizer of at most `section.vocab_size` tokens, the same for the same texts in any order.

    wordpiece: BERT's pieces (https://arxiv.org/abs/1810.04805). characters: every character but white space is a
    token, the most frequent ones are known. Texts are read once; only their distinct words stay in memory.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    by_word = section.tokenizer == "wordpiece"
    each_character = pre_tokenizers.Split(Regex(r"\S"), "removed", invert=True)
    splitter = pre_tokenizers.BertPreTokenizer() if by_word else each_character
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    if not words:
        raise DataError("model.from_scratch", "the training split has no words to learn a tokenizer from")
    if by_word:
        backend = Tokenizer(models.WordPiece(_wordpieces(words, vocab_size=section.vocab_size), unk_token="[UNK]"))
    else:
        known = [*SPECIAL_TOKENS, *_most_frequent(words, section.vocab_size - len(SPECIAL_TOKENS))]
        backend = Tokenizer(models.WordLevel({token: id for id, token in enumerate(known)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizer, splitter
    ends = [("[CLS]", SPECIAL_TOKENS.index("[CLS]")), ("[SEP]", SPECIAL_TOKENS.index("[SEP]"))]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, model_max_length=section.max_position_embeddings,
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        # One segment only: DistilBERT takes no token types, and BERT fills in zeros.
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def train_writer_tokenizer(
    texts: Iterable[str], section: CausalFromScratch | Seq2SeqFromScratch
) -> PreTrainedTokenizerFast:
    """A tokenizer that gives back every text as it was, of at most `section.vocab_size` tokens.

    bytes: byte-level pairs, GPT-2's (Radford et al. 2019), so that nothing is unknown. characters: every character is
    a token, line breaks and case included; the most frequent ones are known. Texts are read once.
    For an encoder-decoder the tokenizer ends each text with the end-of-text token; for a decoder it adds nothing.
    Raises DataError when there is no text, RecipeError when the vocabulary is too small for every byte.
    """
    causal = isinstance(section, CausalFromScratch)
    train = _byte_pairs if section.tokenizer == "bytes" else _characters
    backend = train(texts, vocab_size=section.vocab_size)
    if not causal:
        backend.post_processor = processors.TemplateProcessing(
            single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, backend.token_to_id(END_OF_TEXT))]
        )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, model_max_length=section.max_position_embeddings,
        pad_token=PADDING, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT if causal else None,
        unk_token=None if section.tokenizer == "bytes" else UNKNOWN,
        clean_up_tokenization_spaces=False, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _byte_pairs(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    specials = [PADDING, END_OF_TEXT]
    least = BYTES + len(specials)
    if vocab_size < least:
        what = f"{vocab_size} is too few for the {BYTES} bytes and {len(specials)} special tokens"
        raise RecipeError("model.from_scratch.vocab_size", what, f"Set it to {least} or more.")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    # With every byte known beforehand the trainer has no symbol to number in hash order, and ties between pairs go
    # by their ids. A pair that was seen once teaches nothing.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=[*specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(_at_least_one(texts), trainer)
    return backend


def _at_least_one(texts: Iterable[str]) -> Iterator[str]:
    """The texts; DataError at their end when all were empty."""
    empty = True
    for text in texts:
        empty = empty and not text
        yield text
    if empty:
        raise _no_text()


def _characters(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    specials = [PADDING, END_OF_TEXT, UNKNOWN]
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    if not counts:
        raise _no_text()
    known = [*specials, *_most_frequent(counts, vocab_size - len(specials))]
    backend = Tokenizer(models.WordLevel({token: id for id, token in enumerate(known)}, unk_token=UNKNOWN))
    # A dot would leave out line breaks.
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return backend


def _no_text() -> DataError:
    return DataError("model.from_scratch", "the training split has no text to learn a tokenizer from")


def _most_frequent(counts: Counter[str], most: int | None = None) -> list[str]:
    """Ties go by code point: the order in which texts came must not matter."""
    return sorted(counts, key=lambda symbol: (-counts[symbol], symbol))[:most]


def _alphabet(words: Counter[str], *, room: int) -> list[str]:
    """The most frequent characters, each as the start of a word and, where it ever goes on with one, as `##c`."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    inside = {character for word in words for character in word[1:]}
    symbols: list[str] = []
    for character in _most_frequent(counts):
        forms = [character, f"##{character}"] if character in inside else [character]
        if len(symbols) + len(forms) > room:
            break
        symbols += forms
    return symbols


def _wordpieces(words: Counter[str], *, vocab_size: int) -> dict[str, int]:
    """Piece -> id. The library's trainer numbers characters in hash order, so each training would differ.

    Here the characters are given as special tokens, in our order, and only the merges are left to the trainer.
    """
    alphabet = _alphabet(words, room=vocab_size - len(SPECIAL_TOKENS))
    # The trainer would join what stands around a character it does not know; no text is ever cut into such pieces.
    known = {word: count for word, count in sorted(words.items()) if set(word) <= set(alphabet)}
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*SPECIAL_TOKENS, *alphabet], limit_alphabet=0, show_progress=False
    )
    learner.train_from_iterator((f"{word} " * count for word, count in known.items()), trainer)
    return learner.get_vocab(with_added_tokens=False)
