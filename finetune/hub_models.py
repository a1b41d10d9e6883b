"""Which folder a model's name means: one on this disk, one in the Hub's cache, one of a package, or one on the Hub.

A name that can be found without the network never asks the network, and what is fetched is never code or a pickle.
"""

from __future__ import annotations

import threading
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub

from finetune.errors import EnvironmentFault, ModelError, listed
from finetune.model_folder import (
    MINILM,
    MINILM_REVISION,
    ModelFolder,
    check_model_folder,
    find_local_folder,
    find_packaged_minilm,
)
from finetune.runs import disk_faults

# A chat template is a file of its own: chat_template.jinja.
HUB_FILES = ("*.json", "*.txt", "*.jinja", "*.model", "model.safetensors", "model-*.safetensors")
# A resolver without a network may take minutes to say so.
HUB_ANSWER_SECONDS = 4.0


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
