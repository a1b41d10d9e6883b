"""Which folder a model's name means: one on this disk, one in the Hub's cache, one of a package, or one on the Hub.

A name that can be found without the network never asks the network, and what is fetched is never code or a pickle.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi
from huggingface_hub import errors as hub

from finetune.errors import EnvironmentFault, ModelError, listed
from finetune.model_folder import (
    MINILM,
    MINILM_REVISION,
    ModelFolder,
    check_adapter_folder,
    check_model_folder,
    find_local_folder,
    find_packaged_minilm,
    is_adapter_folder,
)
from finetune.progress import SILENT, Progress
from finetune.runs import MODEL_SETTINGS, disk_faults
from finetune.saved_models import saved_model

# A chat template is a file of its own: chat_template.jinja.
HUB_FILES = ("*.json", "*.txt", "*.jinja", "*.model", "model.safetensors", "model-*.safetensors")
# What `finetune push` uploads besides: the matrices of an adapter.
SAVED_FILES = (*HUB_FILES, "adapter_model.safetensors")
SAVED = "hub:"  # begins the name of a finished model on the Hub, where a run folder could stand
COMMIT_CHARACTERS = 12
# A resolver without a network may take minutes to say so.
HUB_ANSWER_SECONDS = 4.0


def find_model(name: str, *, base: Path, revision: str | None = None) -> ModelFolder:
    """The folder that `name` means: a folder relative to `base`, or a Hub name, alone or as `USER/NAME@REVISION`.

    A Hub name is taken from the Hub cache, else (all-MiniLM-L6-v2) from the installed package, else from the Hub.
    Raises ModelError for a wrong name or a bad folder, EnvironmentFault when the Hub does not answer.
    """
    name, revision = _split_revision(name, revision, base=base)
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
    if found is None:
        path = _from_hub(name, revision=wanted, files=HUB_FILES)
        check_model_folder(path)
        found = ModelFolder(path=path, origin="hub")
    return found


def find_saved_model(folder: str | Path, *, progress: Progress = SILENT) -> Path:
    """The folder of a finished model: what `saved_model` finds here, or `hub:USER/NAME`, alone or with `@REVISION`.

    One that is in the Hub's cache is taken from there; `progress` hears which commit it is. Raises CheckpointError for
    what is no run, ModelError for what no `finetune push` has made, and EnvironmentFault when the Hub does not answer.
    """
    if not is_on_hub(folder):
        return saved_model(folder)
    where = str(folder)
    name, revision = _split_revision(where.removeprefix(SAVED), None, base=None)
    wanted = revision or "main"
    cached = _saved_in_cache(name, revision=wanted)
    path = cached or _from_hub(name, revision=wanted, files=SAVED_FILES, where=where)
    if not (path / MODEL_SETTINGS).is_file():
        what = f"has no {MODEL_SETTINGS}: no `finetune push` has made it"
        raise ModelError(where, what, f"To train on it, write model.name: {name} in a recipe.")
    _check_saved(path)
    origin = "of the Hub's cache; name a newer one with @COMMIT" if cached else "of the Hub"
    progress.say(f"{SAVED}{name} is commit {path.name[:COMMIT_CHARACTERS]} {origin}")
    return path


def is_on_hub(folder: str | Path) -> bool:
    return str(folder).startswith(SAVED)


def _split_revision(name: str, revision: str | None, *, base: Path | None) -> tuple[str, str | None]:
    """`USER/NAME@REVISION` in its two parts; what is a folder, or written like one, keeps its @."""
    before, at, named = name.partition("@")
    is_path = base is not None and (name.startswith((".", "/", "~")) or (base / os.path.expanduser(name)).exists())
    if not at or is_path:
        return name, revision
    if not before or not named:
        raise ModelError("model.name", f"'{name}' has nothing before or after its @", "Write USER/NAME@REVISION.")
    if revision is not None:
        what = f"is '{revision}', and model.name ends in '@{named}'"
        raise ModelError("model.revision", what, "Keep one of them.")
    return before, named


def _saved_in_cache(name: str, *, revision: str) -> Path | None:
    """A snapshot of which every file is there; huggingface_hub keeps a list of them."""
    try:
        path = Path(
            HfApi().snapshot_download(
                name, revision=revision, allow_patterns=list(SAVED_FILES), ignore_patterns=["*/*"],
                local_files_only=True,
            )
        )  # fmt: skip
        _check_saved(path)
    except (OSError, ModelError, hub.HFValidationError):
        return None
    return path


def _check_saved(path: Path) -> None:
    (check_adapter_folder if is_adapter_folder(path) else check_model_folder)(path)


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


def _from_hub(name: str, *, revision: str, files: tuple[str, ...], where: str = "model.name") -> Path:
    """The downloaded files; `where` is what an error speaks of."""
    weights = tuple(file.split("*")[0].removesuffix(".safetensors") for file in files if "safetensors" in file)
    of_revision = "model.revision" if where == "model.name" else where
    try:
        info = _ask_hub(name, revision=revision)
        there = [sibling.rfilename for sibling in info.siblings or []]
        if not any(file.startswith(weights) and file.endswith(".safetensors") for file in there):
            do = "Use another revision, or convert the weights where they can be trusted."
            raise ModelError(where, f"{name}: only safetensors are loaded. Found: {listed(there)}", do)
        with disk_faults(Path(huggingface_hub.constants.HF_HUB_CACHE)):
            path = HfApi().snapshot_download(
                name, revision=revision, allow_patterns=list(files), ignore_patterns=["*/*"]
            )
    except hub.HFValidationError as error:
        raise ModelError(where, f"'{name}' is neither a folder nor a Hub name", "Write owner/name.") from error
    except hub.GatedRepoError as error:
        raise ModelError(where, f"{name} is gated", "Accept its terms on the Hub and set HF_TOKEN.") from error
    except hub.RevisionNotFoundError as error:
        raise ModelError(of_revision, f"{name} has no revision '{revision}'", "See its history.") from error
    except hub.RepositoryNotFoundError as error:
        do = "Check the spelling; a private one needs HF_TOKEN; a folder starts with ./"
        raise ModelError(where, f"no model '{name}' on the Hub", do) from error
    except (OSError, hub.HTTPError) as error:  # type: ignore[attr-defined]
        # The text of these errors holds URLs and sometimes tokens; their kind says enough.
        reason = getattr(getattr(error, "response", None), "status_code", type(error).__name__)
        package = " Its weights also come with the extra `offline`." if name == MINILM else ""
        do = f"'{name}' is neither a folder nor in the Hub cache ({reason}).{package}"
        raise EnvironmentFault(where, "cannot reach the Hub; give a local folder", do) from error
    return Path(path)


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
