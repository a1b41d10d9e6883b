"""A finished run -> a repository of the Hub: private unless asked, listed first, in one commit.

The Hub keeps what has arrived by its content, so that a push that broke off is finished by the same command.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import huggingface_hub
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub import errors as hub
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)
from huggingface_hub.utils import logging as hub_logging

from finetune.errors import EnvironmentFault, FinetuneError, ModelError, RecipeError
from finetune.hub_staging import UPLOADED, Staging, What, staged
from finetune.progress import Progress
from finetune.runs import find_run

WAITING_SECONDS = (1.0, 4.0, 15.0)  # before each new try
PASSING_STATES = frozenset({429, 500, 502, 503, 504})
AGAIN = "What has arrived is kept: the same command goes on."
# What the Hub's answers mean for a push, and what to do; its own words hold addresses and sometimes tokens.
STATES = {
    401: ("HF_TOKEN is refused by the Hub", "Make one that may write: https://huggingface.co/settings/tokens"),
    402: ("the Hub asks for a payment", "See the billing page of your account."),
    403: ("this token has no right to write there", "Use a name of your own, or a token that may write there."),
    404: ("no such repository, or it is not yours", "Check the name; the token must be of its owner."),
    409: ("the Hub is busy with another change of this repository", AGAIN),
    412: ("somebody else changed the repository meanwhile", AGAIN),
    413: ("the Hub finds the files too large", "Push fewer or smaller files."),
    429: ("the Hub has had too many requests", f"Wait some minutes. {AGAIN}"),
    507: ("the storage of this account is full", "Delete what is not needed, or ask the Hub for more."),
}
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Pushed:
    """What was uploaded, or would be: `state` is `dry run`, `pushed` or `already up to date`.

    files: name -> bytes; deleted: files of an earlier push that this one has not; commit, url: None of a dry run.
    """

    repository: str
    private: bool
    what: What
    state: str
    files: Mapping[str, int]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    deleted: tuple[str, ...] = ()
    commit: str | None = None
    url: str | None = None


def push(
    folder: str | Path,
    repository: str,
    *,
    what: What = "best",
    public: bool = False,
    dry_run: bool = False,
    announce: Callable[[Pushed], None] = lambda planned: None,
    progress: Progress,
) -> Pushed:
    """Upload a model of a run with its card to `repository`, `owner/name`; `announce` hears before what will go.

    Raises RecipeError for a name that is none, CheckpointError for a run without such a model or whose scores are of
    other weights, ModelError for what must not be published, and EnvironmentFault when the Hub does not take it.
    """
    check_repository(repository)
    run = find_run(folder)
    if not dry_run:
        _require_token()
    with staged(run, what, repository=repository) as staging:
        planned = Pushed(
            repository=repository, private=not public, what=what, state="dry run", files=staging.files,
            left_out=staging.left_out, notes=staging.notes,
        )  # fmt: skip
        announce(planned)
        return planned if dry_run else _upload(planned, staging, progress=progress)


def check_repository(name: str) -> None:
    """Raises RecipeError, with the rule, for what cannot be the name of a repository."""
    rule = "Write owner/name: letters, digits, - _ and . (none of - . at an end, no -- or ..), at most 96 characters."
    try:
        validate_repo_id(name)
    except hub.HFValidationError as error:
        raise RecipeError("USER/NAME", f"'{name}' is no name of a repository", rule) from error
    if "/" not in name:
        raise RecipeError("USER/NAME", f"'{name}' has no owner", rule)


def _require_token() -> None:
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise EnvironmentFault("push", "HF_HUB_OFFLINE is set, and a push needs the Hub", "Unset it, or use --dry-run.")
    if huggingface_hub.get_token() is None:
        do = "Set it, or log in with `hf auth login`; --dry-run needs none."
        raise EnvironmentFault("push", "HF_TOKEN is missing: you are not logged in to the Hub", do)


def _upload(planned: Pushed, staging: Staging, *, progress: Progress) -> Pushed:
    api, repository = HfApi(), planned.repository
    with _quiet(progress):
        _asked(api.whoami, repository)  # before anything is made there
        before = _asked(lambda: _info(api, repository), repository)
        if before is None:
            _persist(lambda: api.create_repo(repository, private=planned.private), repository, progress)
        else:
            _check_visibility(before, planned, progress)
        there = [each.rfilename for each in (before.siblings or [])] if before is not None else []
        stale = tuple(name for name in there if UPLOADED.fullmatch(name) and name not in staging.files)
        if stale:
            progress.say(f"deletes from an earlier push: {', '.join(stale)}")
        commit = _persist(lambda: _commit(api, planned, staging, stale), repository, progress)
    done = "already up to date" if before is not None and commit.oid == before.sha else "pushed"
    return Pushed(**{**vars(planned), "state": done, "deleted": stale, "commit": commit.oid,
                     "private": planned.private if before is None else bool(before.private),
                     "url": f"{api.endpoint}/{repository}"})  # fmt: skip


def _info(api: HfApi, repository: str) -> ModelInfo | None:
    try:
        return api.model_info(repository)
    except hub.RepositoryNotFoundError:
        return None


def _check_visibility(before: ModelInfo, planned: Pushed, progress: Progress) -> None:
    """A push never changes who may see a repository, and goes to a public one only when that was asked for."""
    if planned.private and not before.private:
        what = f"{planned.repository} is there already, and public"
        raise RecipeError("push", what, "Add --public, or name another repository.")
    if not planned.private and before.private:
        progress.warn(f"{planned.repository} is there already, and stays private: change that on its page")


def _commit(api: HfApi, planned: Pushed, staging: Staging, stale: tuple[str, ...]) -> CommitInfo:
    """All files in one commit; none where nothing has changed."""
    deletions = [CommitOperationDelete(name) for name in stale]
    message = f"finetune push --what {planned.what}"
    paths = [staging.folder / name for name in staging.files]
    try:
        additions = [CommitOperationAdd(path.name, str(path)) for path in paths]
        return api.create_commit(planned.repository, [*deletions, *additions], commit_message=message)
    except ConnectionError as error:
        if isinstance(error, hub.OfflineModeIsEnabled) or huggingface_hub.constants.HF_HUB_DISABLE_XET:
            raise
    # hf_xet could not reach its storage, which mirrors of the Hub lack; open files go the older way, by LFS.
    with contextlib.ExitStack() as opened:
        additions = [CommitOperationAdd(path.name, opened.enter_context(path.open("rb"))) for path in paths]
        return api.create_commit(planned.repository, [*deletions, *additions], commit_message=message)


def _persist(action: Callable[[], Answer], repository: str, progress: Progress) -> Answer:
    """The answer of the Hub, asked again while its trouble may pass; EnvironmentFault when it does not."""
    for wait in WAITING_SECONDS:
        try:
            return action()
        except Exception as error:
            if not _may_pass(error):
                raise _fault(error, repository) from error
            progress.say(f"the Hub {_state_text(error)}; trying again in {wait:g} s")
            time.sleep(wait)
    return _asked(action, repository)


def _asked(action: Callable[[], Answer], repository: str) -> Answer:
    try:
        return action()
    except Exception as error:
        raise _fault(error, repository) from error


def _may_pass(error: Exception) -> bool:
    """Large files are tried again by the client itself, which wraps the last error in a RuntimeError."""
    if isinstance(error, RuntimeError | hub.OfflineModeIsEnabled):
        return False
    status = _status(error)
    return status in PASSING_STATES if status else isinstance(error, hub.HTTPError | ConnectionError | TimeoutError)  # type: ignore[attr-defined]


def _status(error: BaseException | None) -> int | None:
    """The Hub's answer that an error comes from, however deep it is."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return int(status)
        error = error.__cause__
    return None


def _state_text(error: Exception) -> str:
    status = _status(error)
    return f"answers {status}" if status else f"does not answer ({type(error).__name__})"


def _fault(error: Exception, repository: str) -> FinetuneError:
    """Our words for an error of the client: never its text, which may hold a token."""
    if isinstance(error, FinetuneError):
        return error
    status = _status(error)
    if status in STATES:
        return EnvironmentFault(repository, f"not pushed: {STATES[status][0]} ({status})", STATES[status][1])
    if status is not None and status in PASSING_STATES:
        return EnvironmentFault(repository, f"not pushed: the Hub is not well ({status})", AGAIN)
    if status == 400 or (isinstance(error, ValueError) and "metadata" in str(error)):
        return ModelError(repository, "not pushed: the Hub refuses the metadata of README.md", "See --dry-run.")
    if status is not None or isinstance(error, ValueError):
        what = f"not pushed: the Hub answers {status}" if status else "not pushed: the Hub's answer makes no sense"
        return EnvironmentFault(repository, what, "Try again later.")
    if isinstance(error, OSError | RuntimeError | hub.HTTPError):  # type: ignore[attr-defined]
        return EnvironmentFault(repository, f"not pushed: the connection broke ({_kind(error)})", AGAIN)
    raise error


def _kind(error: BaseException) -> str:
    """The innermost reason's name, which says more than that of what wraps it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return type(error).__name__


@contextlib.contextmanager
def _quiet(progress: Progress) -> Iterator[None]:
    """Without the client's own warnings, which our messages replace; with --quiet also without its bars."""
    verbosity, bars = hub_logging.get_verbosity(), not are_progress_bars_disabled()
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    if progress.quiet:
        disable_progress_bars()
    try:
        yield
    finally:
        hub_logging.set_verbosity(verbosity)
        if bars:
            enable_progress_bars()
