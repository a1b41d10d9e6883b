"""Do what a Dockerfile says, step by step in a plain folder, where no container engine runs.

    python scripts/dockerfile_steps.py ROOT [--build-arg NAME=VALUE ...] [--python PATH] [--list]

Every absolute path of the image becomes one below ROOT, which all stages share: a COPY from another stage is checked,
not done. The base image is the Python that runs this, or --python. What would change this machine (users, owners)
is told and left out. In the end the health check and the entry point are run as the image would run them. It shows
that the steps work and fit each other; the base image and the network of a real build it cannot show.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CHANGES_THE_MACHINE = ("groupadd", "useradd", "addgroup", "adduser", "chown", "apt-get", "apk")
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class StepFailed(Exception):
    """`Dockerfile:LINE: what`."""


@dataclass(frozen=True)
class Step:
    """One instruction with the number of its first line; `flags` are its --name=value."""

    line: int
    word: str
    value: str
    flags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """From a FROM to the next: `base` is an image, or the name of an earlier stage."""

    name: str
    base: str
    steps: Sequence[Step]


def read_steps(text: str) -> list[Step]:
    """The instructions of a Dockerfile, without comments, continued lines joined. Raises StepFailed."""
    steps: list[Step] = []
    begun, joined = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not line.strip() and not joined):
            continue
        begun, joined = begun or number, f"{joined} {line.strip()}".strip()
        if joined.endswith("\\"):
            joined = joined[:-1].rstrip()
            continue
        steps.append(_step(begun, joined))
        begun, joined = 0, ""
    if joined:
        raise StepFailed(f"Dockerfile:{begun}: the last line is continued by none")
    return steps


def _step(line: int, text: str) -> Step:
    word, _, value = text.partition(" ")
    flags: dict[str, str] = {}
    while found := re.match(r"--([\w-]+)=(\S+)\s+", value):
        flags[found[1]] = found[2]
        value = value[found.end() :]
    return Step(line, word.upper(), value.strip(), flags)


def stages_of(steps: Sequence[Step], build_arguments: Mapping[str, str]) -> tuple[list[Stage], dict[str, str]]:
    """The stages, and the arguments that stand before the first FROM, with the values given from outside."""
    stages: list[Stage] = []
    outer: dict[str, str] = {}
    for step in steps:
        if step.word == "FROM":
            base, _, name = re.sub(r"(?i) as ", " AS ", step.value).partition(" AS ")
            stages.append(Stage(name or str(len(stages)), expanded(base.strip(), outer), []))
        elif not stages and step.word == "ARG":
            name, _, default = step.value.partition("=")
            outer[name] = build_arguments.get(name, default)
        elif stages:
            stages[-1] = Stage(stages[-1].name, stages[-1].base, [*stages[-1].steps, step])
        else:
            raise StepFailed(f"Dockerfile:{step.line}: {step.word} before the first FROM")
    return stages, outer


def needed(stages: Sequence[Stage], target: str) -> list[Stage]:
    """The stages that `target` is built on or copies from, itself last, each once and in order."""
    by_name = {stage.name: stage for stage in stages}
    if target not in by_name:
        raise StepFailed(f"there is no stage {target}, only {', '.join(by_name)}")
    found: dict[str, Stage] = {}

    def visit(name: str) -> None:
        stage = by_name[name]
        sources = [stage.base, *(step.flags["from"] for step in stage.steps if "from" in step.flags)]
        for source in sources:
            if source in by_name:
                visit(source)
            elif ":" not in source:
                raise StepFailed(f"stage {name}: {source} is no stage of this file, and an image would have a tag")
        found[name] = stage

    visit(target)
    return list(found.values())


def expanded(text: str, variables: Mapping[str, str]) -> str:
    return VARIABLE.sub(lambda found: variables.get(found[1] or found[2], ""), text)


def words_of(value: str) -> list[str]:
    """A JSON list as it is; anything else goes to the shell."""
    return [str(word) for word in json.loads(value)] if value.startswith("[") else ["sh", "-c", value]


def is_ignored(path: str, rules: Sequence[str]) -> bool:
    """Whether .dockerignore keeps a path of the build context out: the last rule that fits it, or a folder of it."""
    parts = path.split("/")
    above = ["/".join(parts[: length + 1]) for length in range(len(parts))]
    ignored = False
    for rule in rules:
        pattern = rule.lstrip("!").removeprefix("**/").strip("/")
        places = [*parts, *above] if "**/" in rule else above
        if any(fnmatch.fnmatchcase(place, pattern) for place in places):
            ignored = not rule.startswith("!")
    return ignored


def read_rules(context: Path) -> list[str]:
    path = context / ".dockerignore"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@dataclass
class Builder:
    """Runs steps below `root`; `say` hears each of them first."""

    root: Path
    context: Path
    build_arguments: Mapping[str, str]
    python: Path = Path(sys.executable)
    say: Callable[[str], None] = lambda line: None

    def build(self, text: str, *, target: str | None = None) -> int:
        """The exit code of the entry point, after all stages that `target` (default: the last) needs."""
        stages, outer = stages_of(read_steps(text), self.build_arguments)
        self._top = sorted({path.split("/")[1] for path in re.findall(r"(?<![\w./:}-])/\w[\w./-]*", text)})
        self._state: dict[str, tuple[dict[str, str], Path]] = {}
        images = self.root / "usr/local/bin"
        images.mkdir(parents=True, exist_ok=True)
        for name in ("python", "python3"):
            (images / name).unlink(missing_ok=True)
            (images / name).symlink_to(self.python.resolve())  # not a virtual environment's
        last = needed(stages, target or stages[-1].name)
        for stage in last:
            self.say(f"FROM {stage.base} AS {stage.name}")
            self._run_stage(stage, outer, known={each.name for each in stages})
        return self._start(last[-1])

    def _run_stage(self, stage: Stage, outer: Mapping[str, str], *, known: set[str]) -> None:
        start = {"PATH": f"{self.root}/usr/local/bin:/usr/local/bin:/usr/bin:/bin", "HOME": f"{self.root}/root"}
        variables, folder = self._state.get(stage.base, (start, self.root))
        variables = dict(variables)
        for step in stage.steps:
            self.say(f"Dockerfile:{step.line}: {step.word} {step.value}")
            if step.word == "ARG":
                name, _, default = step.value.partition("=")
                variables[name] = self.build_arguments.get(name, default or outer.get(name, ""))
            elif step.word == "ENV":
                variables |= dict(self._settings(step.value, variables))
            elif step.word == "WORKDIR":
                folder = self._inside(expanded(step.value, variables), folder)
                folder.mkdir(parents=True, exist_ok=True)
            elif step.word == "COPY":
                self._copy(step, folder, variables, known=known)
            elif step.word == "RUN":
                self._run(step, folder, variables)
        self._state[stage.name] = (variables, folder)

    def _settings(self, value: str, variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        for name, quoted, plain in re.findall(r"(\w+)=(?:\"([^\"]*)\"|(\S+))", value):
            yield name, expanded(self._moved(quoted or plain), variables)

    def _moved(self, text: str) -> str:
        """Paths of the image, wherever they stand in a command, as paths below the root."""
        return re.sub(rf"(?<![\w./:}}-])/(?=(?:{'|'.join(self._top)})\b)", f"{self.root}/", text)

    def _inside(self, path: str, folder: Path) -> Path:
        return self.root / path.lstrip("/") if path.startswith("/") else folder / path

    def _copy(self, step: Step, folder: Path, variables: Mapping[str, str], *, known: set[str]) -> None:
        *sources, target = expanded(step.value, variables).split()
        if "from" in step.flags:
            if step.flags["from"] not in known or sources != [target]:
                raise StepFailed(f"Dockerfile:{step.line}: only the same path of a stage of this file can be checked")
            if not self._inside(target, folder).exists():
                raise StepFailed(f"Dockerfile:{step.line}: {target} is not in stage {step.flags['from']}")
            return
        rules, place = read_rules(self.context), self._inside(target, folder)
        for source in sources:
            path = self.context / source
            if not path.exists() or is_ignored(source, rules):
                raise StepFailed(f"Dockerfile:{step.line}: {source} is not in the build context")
            if path.is_file():
                into = place / path.name if target.endswith("/") else place
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, into)
                continue
            for item in (item for item in path.rglob("*") if item.is_file()):
                if not is_ignored(item.relative_to(self.context).as_posix(), rules):
                    into = place / item.relative_to(path)
                    into.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(item, into)

    def _run(self, step: Step, folder: Path, variables: Mapping[str, str]) -> None:
        if step.value.split()[0] in CHANGES_THE_MACHINE:
            self.say("    left out: it would change this machine")
            return
        words = [self._moved(word) for word in words_of(step.value)]
        done = subprocess.run(words, cwd=folder, env=_environment(variables), check=False)
        if done.returncode:
            raise StepFailed(f"Dockerfile:{step.line}: exit code {done.returncode}: {step.value}")

    def _start(self, stage: Stage) -> int:
        """The health check, which must pass, then the entry point with its default arguments."""
        variables, folder = self._state[stage.name]
        steps = {step.word: step for step in stage.steps}
        environment = _environment(variables)
        if "HEALTHCHECK" in steps:
            words = words_of(steps["HEALTHCHECK"].value.removeprefix("CMD").strip())
            self.say(f"health check: {' '.join(words)}")
            code = subprocess.run(words, cwd=folder, env=environment, check=False).returncode
            if code:
                raise StepFailed(f"Dockerfile:{steps['HEALTHCHECK'].line}: the health check ends with {code}")
        words = [word for name in ("ENTRYPOINT", "CMD") if name in steps for word in words_of(steps[name].value)]
        self.say(f"entry point: {' '.join(words)}")
        return subprocess.run(words, cwd=folder, env=environment, check=False).returncode if words else 0


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """That of the image; of this machine only what leads to the network and its packages."""
    kept = {name: value for name, value in os.environ.items() if re.match(r"(PIP_|SSL_|\w*_proxy$|\w*_PROXY$)", name)}
    return {**kept, **variables}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="a new folder, which becomes the image's file system")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--target", help="a stage (default: the last)")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="stands for the base image")
    parser.add_argument("--list", action="store_true", help="show the steps of the target and do nothing")
    arguments = parser.parse_args(argv)
    context = Path(__file__).resolve().parent.parent
    text = (context / "Dockerfile").read_text(encoding="utf-8")
    given = dict(each.split("=", 1) for each in arguments.build_arg)
    try:
        if arguments.list:
            stages, _ = stages_of(read_steps(text), given)
            for stage in needed(stages, arguments.target or stages[-1].name):
                _say(f"FROM {stage.base} AS {stage.name}")
                for step in stage.steps:
                    _say(f"  {step.line}: {step.word} {step.value}")
            return 0
        arguments.root.mkdir(parents=True)
        builder = Builder(arguments.root.resolve(), context, given, python=arguments.python, say=_say)
        return builder.build(text, target=arguments.target)
    except StepFailed as fault:
        _say(f"error: {fault}")
        return 1


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
