"""The run folder: one training, told in files that people and programs read.

    recipe.yaml  run.json  data.json  splits.parquet  history.jsonl  checkpoints/  best/  last/
    predictions/  baselines/  scores.json  analysis.json  test_openings.jsonl  figures/  report.html  README.md

Report, comparison, card and push read this folder and never hold a live trainer. Every file is written as
if the power may go: temporary name, fsync, rename.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel

from finetune.errors import CheckpointError, EnvironmentFault, FinetuneError, RecipeError
from finetune.processes import resume_hint
from finetune.run_files import RunFile, RunInfo
from finetune.run_lock import LOCK, held, other_holder

MODEL_SETTINGS = "finetune.json"
_FIRST_FILES = ("recipe.yaml", "data.json", "splits.parquet")
OWN_FUNCTIONS = "functions"  # copies of the files that cleaning functions of the user's own come from
BEGUN_BY_HALF = {LOCK, OWN_FUNCTIONS, *_FIRST_FILES, *(f".{name}.tmp" for name in (*_FIRST_FILES, "run.json"))}
KINDS_OF_MANY = {
    "crossval.json": "a cross-validation",
    "seeds.json": "a study of seeds",
    "search.json": "a search",
    "comparison.json": "a comparison",
}
RUNS_IN_A_MESSAGE = 3
# Words of torch, safetensors and pyarrow, which raise errors of their own kinds.
FULL_DISK_SIGNS = ("No space left", "os error 28", "File too large", "os error 27", "unexpected pos", "write failed")
LIBRARIES = (
    "torch",
    "transformers",
    "datasets",
    "evaluate",
    "accelerate",
    "peft",
    "scikit-learn",
    "tokenizers",
    "numpy",
)

Json = dict[str, Any]


FileModel = TypeVar("FileModel", bound=RunFile)


class Run:
    """One run folder. Paths are attributes; reading and writing go through here."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.recipe = self.folder / "recipe.yaml"
        self.info = self.folder / "run.json"
        self.data = self.folder / "data.json"
        self.splits = self.folder / "splits.parquet"
        self.history = self.folder / "history.jsonl"
        self.checkpoints = self.folder / "checkpoints"
        self.best = self.folder / "best"
        self.last = self.folder / "last"
        self.scores = self.folder / "scores.json"
        self.analysis = self.folder / "analysis.json"
        self.test_openings = self.folder / "test_openings.jsonl"
        self.samples = self.folder / "samples"
        self.figures = self.folder / "figures"
        self.report = self.folder / "report.html"
        self.card = self.folder / "README.md"

    @property
    def name(self) -> str:
        return self.folder.name

    def predictions(self, split: str) -> Path:
        return self.folder / "predictions" / f"{split}.parquet"

    def baseline_predictions(self, baseline: str, split: str) -> Path:
        return self.folder / "baselines" / baseline / f"{split}.parquet"

    def model(self, name: str) -> Path:
        """The folder of the model `best` or `last`. Raises CheckpointError when it is not there."""
        path = self.folder / name
        if path.is_dir():
            return path
        why, do = self.unfinished() or ("", "Train it again: --restart.")
        if self.folder.absolute().parent.name == "trials":
            why, do = "a search keeps the model of its best trial alone", "Name that trial."
        raise CheckpointError(str(self.folder), f"has no {name}/{why and f': {why}'}", do)

    def read(self, path: Path, kind: type[FileModel]) -> FileModel:
        """A JSON file of this run. Raises CheckpointError when it is not there or not ours."""
        try:
            return kind.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            why, do = self.unfinished() or ("", "Is this a finished run folder?")
            raise CheckpointError(str(self.folder), f"has no {path.name}{why and f': {why}'}", do) from None
        except ValueError as error:
            raise CheckpointError(str(path), f"is not a {path.name} of this version ({type(error).__name__})") from None

    def unfinished(self) -> tuple[str, str] | None:
        """How a run stands that is not complete, and what to do; None of a complete one, or where run.json is none.

        A process that is killed outright cannot say so: run.json then says `running`, and nobody holds the folder.
        """
        try:
            info = RunInfo.model_validate_json(self.info.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if info.status == "complete":
            return None
        if info.status == "pruned":
            return "its search gave it up", "Name another trial."
        if holder := other_holder(self.folder):
            return f"still running, in process {holder}", "Wait for it."
        what: str = "killed outright while it ran" if info.status == "running" else info.status
        do = resume_hint(self.folder, processes=info.processes)
        if info.status == "failed" and info.failure:
            what += f" ({info.failure.removesuffix(do).rstrip('. ')})"
        return what, f"{do}."

    def update(self, **changes: Any) -> RunInfo:
        """Change fields of run.json."""
        info = self.read(self.info, RunInfo).model_copy(update=changes)
        write_json(self.info, info)
        return info

    def history_rows(self) -> list[Json]:
        return read_json_lines(self.history)

    def record_test_opening(self, *, by: str, documents: int) -> None:
        """Every look at the test split is written down; the report prints the count."""
        append_json_line(self.test_openings, {"when": now(), "by": by, "documents": documents})

    def begin(self, *, recipe_text: str, data: Json, splits: Mapping[str, Any], info: RunInfo) -> None:
        """The first files. run.json comes last: a folder without it was never begun."""
        write_text(self.recipe, recipe_text)
        write_json(self.data, data)
        write_table(self.splits, splits)
        write_json(self.info, info)

    def forget_training(self) -> None:
        """Delete what a training left here; who looked at the test split stays recorded."""
        for name in ("checkpoints", "best", "last", "merged", "predictions", "baselines", "samples", "figures"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for path in (self.history, self.scores, self.analysis, self.report, self.card):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one process; a killed process lets go by itself. Raises CheckpointError."""
        with disk_faults(self.folder):
            handle = open(self.folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115  (held until the run ends)
        with held(handle, folder=self.folder):
            yield


def new_run_folder(name: str, *, parent: Path = Path("runs")) -> Path:
    """The next free `runs/NAME-NUMBER`."""
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
    taken = [int(match[1]) for item in _listing(parent) if (match := re.fullmatch(rf"{re.escape(stem)}-(\d+)", item))]
    return parent / f"{stem}-{max(taken, default=0) + 1}"


def check_run_folder(folder: Path) -> None:
    """Before any work: `folder` is new or empty, and can be written. Raises RecipeError or EnvironmentFault.

    What a run left that was killed while it began counts as nothing; only a run's folder has a lock.
    """
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise RecipeError(str(place), "is a file", "Name a folder with --run.")
    found = set(_listing(folder))
    if found and not (LOCK in found and found <= BEGUN_BY_HALF):
        what = "belongs to another run" if "run.json" in found else "is not empty"
        raise RecipeError(str(folder), what, "Use --resume or another folder.")
    parent = folder
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise EnvironmentFault(str(folder), f"cannot be written: no permission in {parent}", "Name another with --run.")


@contextlib.contextmanager
def new_run(folder: Path) -> Iterator[Run]:
    """The run of a new folder, held for this process. Raises RecipeError when another process was faster."""
    check_run_folder(folder)  # before our own lock makes somebody's folder look like a run's
    with disk_faults(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:  # a file system that makes no folders, such as /proc
            raise EnvironmentFault(str(folder), "cannot be created there", "Name another with --run.") from None
    run = Run(folder)
    with run.locked():
        check_run_folder(folder)
        yield run


def find_run(folder: str | Path) -> Run:
    """An existing run folder. Raises CheckpointError when it is not one."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise CheckpointError(str(folder), "is a file, not a run folder" if path.is_file() else "no such run folder")
    _refuse_many(path)
    if not (path / "run.json").is_file():
        never_begun = (path / LOCK).exists()
        what = "was stopped before its training began" if never_begun else "is not a run folder: it has no run.json"
        raise CheckpointError(str(folder), what, "Train into it again with --run." if never_begun else "")
    return Run(path)


def _refuse_many(folder: Path) -> None:
    """A folder that holds several runs is refused with their names, a search with that of its winner."""
    kind = next((kind for file, kind in KINDS_OF_MANY.items() if (folder / file).is_file()), None)
    if kind is None and (folder / "run.json").is_file():
        return
    inside = sorted(path.parent for depth in range(1, 5) for path in folder.glob("*/" * depth + "run.json"))
    if kind is None and not inside:
        return
    do = f"Name the runs inside, such as {' '.join(map(str, inside[:RUNS_IN_A_MESSAGE]))}."
    if (folder / "search.json").is_file():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            winner = json.loads((folder / "search.json").read_text(encoding="utf-8"))["winner"]
            do = f"Name its winner's run, {folder / 'trials' / str(winner)}."
    elif not inside:
        do = "Name the runs themselves."
    raise CheckpointError(str(folder), f"is {kind or f'a folder of {len(inside)} runs'}, not a run", do)


def describe_environment() -> Json:
    """Versions, git revision and platform for run.json; never a host or user name."""
    versions = {"python": platform.python_version()}
    for library in ("finetune", *LIBRARIES):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    return {
        "versions": versions,
        "git_revision": _git_revision(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def write_text(path: Path, text: str) -> None:
    """Atomically: a reader sees the old file or the new one, also after a power cut."""
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_faults(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)


def write_json(path: Path, value: BaseModel | Mapping[str, Any]) -> None:
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    write_text(path, json.dumps(plain, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def append_json_line(path: Path, row: Mapping[str, Any]) -> None:
    """At most the last line can be cut by a kill; the next one then starts on a line of its own."""
    line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    with disk_faults(path.parent), open(path, "ab+") as handle:
        if handle.tell() and _last_byte(handle) != b"\n":
            line = "\n" + line
        handle.write(line.encode())


def _last_byte(handle: IO[bytes]) -> bytes:
    handle.seek(-1, os.SEEK_END)
    return handle.read(1)


def write_json_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_json_lines(path: Path) -> list[Json]:
    """The rows of a file of JSON lines; a line that a kill cut, or that is no object, is left out."""
    rows: list[Json] = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            rows += [row] if isinstance(row, dict) else []
    return rows


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """A parquet file, atomically; `columns` maps names to arrays or lists of one length."""
    import pyarrow
    import pyarrow.parquet

    temporary = path.with_name(f".{path.name}.tmp")
    with disk_faults(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table(dict(columns)), temporary)
        sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)


def read_table(path: Path, *, columns: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """These columns of a parquet file, or all. Raises CheckpointError when it is not there or damaged."""
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, columns=None if columns is None else list(columns))
    except FileNotFoundError:
        raise CheckpointError(str(path), "is missing", "Is this a finished run folder?") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise CheckpointError(str(path), f"cannot be read ({type(error).__name__})", "Train the run again.") from None
    return table.to_pydict()  # type: ignore[no-any-return]


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


sync_folder = sync_file  # on POSIX a folder is flushed the same way, so that the rename itself survives


@contextlib.contextmanager
def disk_faults(folder: Path) -> Iterator[None]:
    """A full disk or a missing permission, as one message of the environment family."""
    try:
        yield
    except FinetuneError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(sign in str(error) for sign in FULL_DISK_SIGNS):
            what, do = (
                f"disk full: {free_bytes(folder) / 1e6:,.1f} MB free",
                "Make room; a stopped run goes on with --resume.",
            )
            raise EnvironmentFault(str(folder), what, do) from error
        if number in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise EnvironmentFault(str(folder), "cannot be written: permission denied") from error
        if isinstance(error, FileNotFoundError):  # a file system that takes no new names, such as /proc
            raise EnvironmentFault(str(folder), "no file can be made here") from error
        raise


def free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _listing(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir()) if folder.is_dir() else []


def _git_revision() -> str | None:
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            cwd=Path(__file__).parent,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None
