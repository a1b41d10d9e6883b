"""A model and its tokenizer for text classification: found, loaded or built, and saved.

transformers fills whatever is missing with random numbers and goes on with a warning; here each such case is an
error, or a note that the report repeats.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import huggingface_hub
import torch
import transformers
from huggingface_hub import errors as hub
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from finetune.errors import DataError, EnvironmentFault, FinetuneError, ModelError, did_you_mean, listed
from finetune.model_folder import (
    HEAD_TENSORS,
    MINILM,
    MINILM_REVISION,
    ModelFolder,
    check_model_folder,
    check_tokenizer_files,
    find_local_folder,
    find_packaged_minilm,
    misshapen_tensors,
    read_tensor_headers,
    replaced_folder,
)
from finetune.recipe import FromScratch, Model
from finetune.runs import disk_faults

HUB_FILES = ("*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors")
# A resolver without a network may take minutes to say so.
HUB_ANSWER_SECONDS = 4.0

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ATTENTION_DROPOUT_FIELDS = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
# These number positions from padding_idx + 1, so that many fewer tokens fit than max_position_embeddings says.
OFFSET_POSITIONS = frozenset({
    "camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
})  # fmt: skip
# What transformers and tokenizers write for "no limit" is far above this; no position table is.
NO_LIMIT_TOKENS = 10_000_000


def find_model(name: str, *, base: Path, revision: str | None = None) -> ModelFolder:
    """The folder that `name` means: a folder relative to `base`, or a Hub name.

    A Hub name is taken from the Hub cache, else (all-MiniLM-L6-v2) from the installed package, else from the Hub.
    Raises ModelError for a wrong name or a bad folder, EnvironmentFault when the Hub does not answer.
    """
    local = find_local_folder(name, base=base)
    if local is not None and revision is None:
        return local
    if local is not None:
        raise ModelError(name, f"is a folder, and revision '{revision}' goes with a Hub name", "Leave revision out.")
    # A branch moves under a recipe that names no revision; the default model must not.
    wanted = revision or (MINILM_REVISION if name == MINILM else "main")
    found = _in_hub_cache(name, revision=wanted)
    if found is None and name == MINILM and wanted == MINILM_REVISION:
        found = find_packaged_minilm()
    return found or _from_hub(name, revision=wanted)


def _in_hub_cache(name: str, *, revision: str) -> ModelFolder | None:
    """A cached snapshot that can be loaded; a partial one is as good as none, for the Hub can complete it."""
    try:
        config = huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision)
        if not isinstance(config, str):
            return None
        check_model_folder(Path(config).parent)
    except (hub.HFValidationError, ModelError):
        return None
    return ModelFolder(path=Path(config).parent, origin="hub cache")


def _from_hub(name: str, *, revision: str) -> ModelFolder:
    try:
        info = _ask_hub(name, revision=revision)
        files = [sibling.rfilename for sibling in info.siblings or []]
        if not any(file.startswith("model") and file.endswith(".safetensors") for file in files):
            do = "Use another revision, or convert the weights where they can be trusted."
            raise ModelError("model.name", f"{name}: only safetensors are loaded. Found: {listed(files)}", do)
        with disk_faults(Path(huggingface_hub.constants.HF_HUB_CACHE)):
            path = huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=list(HUB_FILES), ignore_patterns=["*/*"]
            )
    except hub.HFValidationError as error:
        raise ModelError("model.name", f"'{name}' is neither a folder nor a Hub name", "Write owner/name.") from error
    except hub.GatedRepoError as error:
        raise ModelError("model.name", f"{name} is gated", "Accept its terms on the Hub and set HF_TOKEN.") from error
    except hub.RevisionNotFoundError as error:
        raise ModelError("model.revision", f"{name} has no revision '{revision}'", "See its history.") from error
    except hub.RepositoryNotFoundError as error:
        do = "Check the spelling; a private one needs HF_TOKEN; a folder starts with ./"
        raise ModelError("model.name", f"no model '{name}' on the Hub", do) from error
    except (OSError, hub.HTTPError) as error:  # type: ignore[attr-defined]
        # The text of these errors holds URLs and sometimes tokens; their kind says enough.
        reason = getattr(getattr(error, "response", None), "status_code", type(error).__name__)
        package = " Its weights also come with the extra `offline`." if name == MINILM else ""
        do = f"'{name}' is neither a folder nor in the Hub cache ({reason}).{package}"
        raise EnvironmentFault("model.name", "cannot reach the Hub; give a local folder", do) from error
    check_model_folder(Path(path))
    return ModelFolder(path=Path(path), origin="hub")


def _ask_hub(name: str, *, revision: str) -> huggingface_hub.ModelInfo:
    """What the Hub knows of the model; TimeoutError when it does not answer in time."""
    answers: list[huggingface_hub.ModelInfo | Exception] = []

    def ask() -> None:
        try:
            api = huggingface_hub.HfApi()
            answers.append(api.model_info(name, revision=revision, timeout=HUB_ANSWER_SECONDS))
        except Exception as error:  # handed to the waiting thread, which raises it
            answers.append(error)

    # A thread of its own, because looking up a host name knows no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_ANSWER_SECONDS)
    if not answers:
        raise TimeoutError
    if isinstance(answers[0], Exception):
        raise answers[0]
    return answers[0]


def load_tokenizer(folder: ModelFolder) -> PreTrainedTokenizerFast:
    """The folder's fast tokenizer, which cuts and pads nothing unless asked to.

    Raises ModelError when its files are missing or foreign, when it is empty, or when it has ids the model has not.
    """
    check_tokenizer_files(folder.path)
    config = _read_config(folder.path)
    with _loading(folder.path):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(str(folder.path), "the tokenizer has no fast form", "Windows need one: add tokenizer.json.")
    ids = tokenizer.get_vocab().values()
    if len(ids) <= len(tokenizer.all_special_tokens):
        raise ModelError(str(folder.path), "the tokenizer knows no words", "Copy its files from the original model.")
    vocab_size = getattr(config.get_text_config(), "vocab_size", None)
    if isinstance(vocab_size, int) and max(ids) >= vocab_size:
        what = f"tokenizer has id {max(ids)}, model has {vocab_size}"
        raise ModelError(str(folder.path), what, "Use the tokenizer that the model was trained with.")
    # all-MiniLM-L6-v2 ships a tokenizer.json that cuts at 128 tokens: nothing may be cut unseen.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(str(folder.path), "the tokenizer has no padding token", "Name one as pad_token.")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


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


def build_classifier(
    model: Model,
    *,
    folder: ModelFolder | None,
    tokenizer: PreTrainedTokenizerFast,
    label_names: Sequence[str],
    multi_label: bool,
    seed: int,
) -> tuple[PreTrainedModel, list[str]]:
    """A float32 classifier for `label_names`, and notes on what is new or changed in it.

    `folder` is what `find_model` gave, or None for `model.from_scratch`. New weights depend on `seed` alone.
    Raises ModelError when the folder's weights do not fit its configuration or the labels.
    """
    config = _config_from_scratch(model.from_scratch, tokenizer) if folder is None else _read_config(folder.path)
    old_names = _label_names(config)
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: id for id, name in enumerate(label_names)}
    config.problem_type = "multi_label_classification" if multi_label else "single_label_classification"
    if config.get_text_config().pad_token_id is None:
        config.get_text_config().pad_token_id = tokenizer.pad_token_id
    notes = [] if model.attention_dropout is None else [_set_attention_dropout(config, model.attention_dropout)]
    if folder is not None:
        _check_shapes(folder.path, config)
    torch.manual_seed(seed)
    if folder is None:
        network = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
        return cast(PreTrainedModel, network), [*notes, "model is new: trained from scratch"]
    network, missing, _ = _load_weights(folder.path, config)
    prefix = f"{network.base_model_prefix}."
    # A pooler belongs to the head in all but name: models trained on masked words alone have none.
    lost = [name for name in missing if name.startswith(prefix) and "pooler" not in name]
    if lost:
        what = f"the weights lack {len(lost)} tensors of the encoder. Missing: {listed(lost, 5)}"
        raise ModelError(str(folder.path), what, "Copy the folder again.")
    head_is_new = any(not name.startswith(prefix) for name in missing)
    if not head_is_new and config.architectures and "SequenceClassification" not in _architecture(config):
        what = f"has a head for another task ({_architecture(config)})"
        raise ModelError(str(folder.path), what, "Name the model that it was made of.")
    if head_is_new:
        notes.append(f"classifier head is new: trained from scratch ({listed(missing, 4)})")
    else:
        notes.append(
            f"classifier head is kept: its labels were {listed(old_names)}, they are now {listed(label_names)}"
        )
    return network, notes + _stored_precision(folder.path)


def load_classifier(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A finished classifier, ready to predict (float32, dropout off), and its tokenizer.

    Every weight comes from the folder: a missing, unexpected, misshapen or non-finite one is a ModelError.
    """
    check_model_folder(folder)
    config = _read_config(folder)
    _check_shapes(folder, config)
    network, missing, unexpected = _load_weights(folder, config)
    head = [name for name in missing if not name.startswith(f"{network.base_model_prefix}.")]
    if head:
        what = f"no classification head. Missing: {listed(head, 5)}. Found: {_architecture(config)}"
        raise ModelError(str(folder), what, "Fine-tune it first, or name the folder of a classifier.")
    if missing or unexpected:
        what = f"the weights are not those of {_architecture(config)}. Missing: {listed(missing, 5) or 'none'}"
        what += f". Not expected: {listed(unexpected, 5) or 'none'}"
        raise ModelError(str(folder), what, "Correct 'architectures' and 'model_type' in config.json.")
    return network, load_tokenizer(ModelFolder(path=folder, origin="folder"))


def largest_window_tokens(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast) -> int:
    """The most tokens, special ones included, that model and tokenizer allow; NO_LIMIT_TOKENS when neither limits."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None) or NO_LIMIT_TOKENS
    if text.model_type in OFFSET_POSITIONS and positions < NO_LIMIT_TOKENS:
        positions -= (text.pad_token_id or 0) + 1
    return int(min(positions, tokenizer.model_max_length, NO_LIMIT_TOKENS))


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, extra_files: Mapping[str, str]
) -> None:
    """A complete model in `folder`: safetensors, config with label names, tokenizer, and `extra_files` (name -> text).

    What stood in `folder` is replaced as a whole, and only once the new files are on the disk.
    """
    with disk_faults(folder), replaced_folder(folder) as staging, _quiet():
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        for name, text in extra_files.items():
            (staging / name).write_text(text, encoding="utf-8")


def _config_from_scratch(section: FromScratch | None, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    if section is None:
        raise ModelError("model", "neither a folder nor from_scratch", "Give model.name or model.from_scratch.")
    # DistilBERT has its own words for these four; for sizes it also heeds BERT's.
    distil = section.architecture == "distilbert"
    settings: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "hidden_size": section.hidden_size,
        "num_hidden_layers": section.num_hidden_layers,
        "num_attention_heads": section.num_attention_heads,
        "hidden_dim" if distil else "intermediate_size": section.intermediate_size,
        "dropout" if distil else "hidden_dropout_prob": section.dropout,
        "attention_dropout" if distil else "attention_probs_dropout_prob": section.dropout,
        "seq_classif_dropout" if distil else "classifier_dropout": section.dropout,
        "max_position_embeddings": section.max_position_embeddings,
    }
    if section.architecture == "roberta":
        # Its positions start behind the padding id; so many tokens as the recipe says shall fit.
        settings["max_position_embeddings"] = section.max_position_embeddings + (tokenizer.pad_token_id or 0) + 1
        settings |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    return transformers.AutoConfig.for_model(section.architecture, **settings)


def _set_attention_dropout(config: PreTrainedConfig, rate: float) -> str:
    field = next((name for name in ATTENTION_DROPOUT_FIELDS if hasattr(config, name)), None)
    if field is None:
        what = f"{config.model_type} has no attention dropout. Looked for: {listed(ATTENTION_DROPOUT_FIELDS)}"
        raise ModelError("model.attention_dropout", what, "Remove the key.")
    before = getattr(config, field)
    setattr(config, field, rate)
    return f"attention dropout is {rate:g} instead of {before:g} ({field})"


def _stored_precision(path: Path) -> list[str]:
    dtypes = {header.dtype for header in read_tensor_headers(path).values()} & {"F16", "BF16", "F64"}
    return [f"weights are stored as {listed(sorted(dtypes))}, loaded and trained as float32"] if dtypes else []


def _read_config(path: Path) -> PreTrainedConfig:
    """The folder's configuration, of an architecture that transformers knows and that can classify texts."""
    with _loading(path):
        settings, _ = PreTrainedConfig.get_config_dict(path)
        model_type = str(settings.get("model_type"))
        if model_type not in transformers.CONFIG_MAPPING:
            what = f"unknown model_type '{model_type}' in config.json (transformers {transformers.__version__})"
            do = did_you_mean(model_type, transformers.CONFIG_MAPPING.keys()) or "A newer transformers may know it."
            raise ModelError(str(path), what, do)
        if model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
            what = f"model_type '{model_type}' has no head for classifying texts"
            raise ModelError(str(path), what, "Use an encoder such as bert, distilbert or roberta.")
        return cast(PreTrainedConfig, transformers.AutoConfig.from_pretrained(path, trust_remote_code=False))


def _label_names(config: PreTrainedConfig) -> list[str]:
    return [str(name) for name in (config.id2label or {}).values()]


def _architecture(config: PreTrainedConfig) -> str:
    return listed(config.architectures or [f"{config.model_type}, architecture not named"])


def _check_shapes(path: Path, config: PreTrainedConfig) -> None:
    """ModelError when a tensor of the folder does not fit, first of all the head of another number of labels.

    transformers raises here too, but tells the shapes only to its log.
    """
    with _loading(path), torch.device("meta"):
        network = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    differ = misshapen_tensors(path, expected=expected, prefix=f"{network.base_model_prefix}.")
    head = next((shapes for name, shapes in differ.items() if name in HEAD_TENSORS), None)
    if head is not None and head[0][1:] == head[1][1:]:
        what = f"the head of {_architecture(config)} has {head[0][0]} labels, {config.num_labels} are wanted"
        raise ModelError(str(path), f"{what} ({listed(_label_names(config))})", "Name a model without a head.")
    if differ:
        shown = [f"{name} is {list(here)}, config.json says {list(there)}" for name, (here, there) in differ.items()]
        raise ModelError(str(path), f"weights do not fit config.json: {listed(shown, 5)}", "Use the matching file.")


def _load_weights(path: Path, config: PreTrainedConfig) -> tuple[PreTrainedModel, list[str], list[str]]:
    """The model, the tensors the folder lacks, and those the model has no place for; all of them finite."""
    with _loading(path):
        network, info = AutoModelForSequenceClassification.from_pretrained(
            path, config=config, dtype=torch.float32, trust_remote_code=False, use_safetensors=True,
            output_loading_info=True,
        )  # fmt: skip
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(str(path), f"{name} holds NaN or infinity", "Its training diverged: use another model.")
    return cast(PreTrainedModel, network), sorted(info["missing_keys"]), sorted(info["unexpected_keys"])


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    """Quiet, and whatever the library says about a folder that passed our checks becomes one line."""
    try:
        with _quiet():
            yield
    except (FinetuneError, MemoryError):
        raise
    except Exception as error:  # a stranger's folder can fail in any way; the cause stays attached
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(str(path), f"cannot be loaded ({type(error).__name__}: {reason})", "Copy it again.") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's loading reports and bars: what they say is checked, and raised or noted, here."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()  # type: ignore[no-untyped-call]
    log.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()  # type: ignore[no-untyped-call]
