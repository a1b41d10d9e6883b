"""The processes that train together: they join, agree, and notice within seconds when one of them is gone.

A process that waits for another inside torch.distributed hears nothing of its death (NCCL) or of its hanging (gloo,
NCCL) for half an hour. So each says every second in the launcher's key-value store that it is there, and reads there
what the others said last. The program has one company, as torch.distributed has one default group.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch._C._distributed_c10d import PrefixStore, TCPStore

from finetune.errors import EnvironmentFault, FinetuneError, Stopped
from finetune.processes import (
    TOLD,
    process_count,
    process_number,
    refuse_lost_processes,
    refuse_unlike_launch,
    tell_launcher,
)
from finetune.progress import write
from finetune.recipe_training import AnyTraining

SECONDS_BETWEEN_SIGNS = 1.0
# How long a process may give no sign of life while it trains, unless training.extra.ddp_timeout says otherwise.
SECONDS_OF_SILENCE = 20.0
# transformers' own default of ddp_timeout: how long one exchange of gradients or predictions may take.
SECONDS_OF_EXCHANGE = 1800.0
# What one process got wrong the others mostly get wrong too; they have this long to say it themselves.
SECONDS_OF_GRACE = 3.0
_companies = itertools.count()


@dataclass(frozen=True)
class Ending:
    """Why one process ended: told to all."""

    process: int
    what: str
    exit_code: int


class Company:
    """One process among `count`; alone it agrees with itself and watches nobody.

    `resume_hint` says how to go on; `on_end` is told, in the writing process, why the training ended from outside.
    """

    def __init__(self, *, number: int = 0, count: int = 1, silence_s: float = SECONDS_OF_SILENCE) -> None:
        self.number, self.count = number, count
        self.resume_hint = "Start again."
        self.on_end: Callable[[str], None] = lambda what: None
        self._silence_s = silence_s
        self._strict = False
        self._store: Any = None
        self._over = threading.Event()
        self._writer_is_gone = False

    def agreed(self, name: str, value: str) -> str:
        """The writer's value, on every process."""
        if self.count == 1:
            return value
        key = f"agreed/{name}"
        if self.number == 0:
            self._store.set(key, value)
        while not self._store.check([key]):  # a waiting `get` would keep this process's signs of life back
            time.sleep(SECONDS_BETWEEN_SIGNS / 20)
        return str(self._store.get(key).decode())

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """While gradients are exchanged no process may be silent, and an exchange that breaks tells who is gone."""
        self._strict = True
        try:
            yield
        except RuntimeError as error:
            gone = self.who_is_gone()
            if gone is None:
                raise
            raise self.fault(gone) from error
        finally:
            self._strict = False

    def who_is_gone(self) -> Ending | None:
        """Waits until every other process has given a sign of life or one's end was said; else who is silent."""
        if self.count == 1:
            return None
        try:
            before = self._signs()
            last_try = time.monotonic() + SECONDS_OF_GRACE
            while time.monotonic() < last_try:
                time.sleep(SECONDS_BETWEEN_SIGNS / 4)
                ending, now = self._ending(), self._signs()
                if ending is not None:
                    return ending
                silent = [other for other, sign in now.items() if sign == before[other] and not self._parted(other)]
                if not silent:
                    return None
        except RuntimeError:  # the store went with its process
            silent = [0]
        self._writer_is_gone = silent == [0]
        return Ending(silent[0], "was killed or has crashed; it left without a word", EnvironmentFault.exit_code)

    def fault(self, ending: Ending) -> EnvironmentFault:
        return EnvironmentFault(f"process {ending.process} (of 0 to {self.count - 1})", ending.what, self.resume_hint)

    # ---- signs of life

    def connect(self, store: Any) -> None:
        """Give and look for signs of life in a store of torch.distributed from now on."""
        self._store = store
        threading.Thread(target=self._watch, name="company", daemon=True).start()

    def end(self, error: BaseException) -> None:
        """Tell the others why this process ends, once it has begun to; the writer is the one who tells the user."""
        self._over.set()
        problem = str(error) if isinstance(error, FinetuneError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(RuntimeError):
            first = self._say(Ending(self.number, problem, int(getattr(error, "exit_code", 1))))
            if self.number == 0:
                self._store.set("told", "1")
            elif not self._writer_is_gone:
                last_try = time.monotonic() + 2 * SECONDS_OF_GRACE
                while first and time.monotonic() < last_try and not self._store.check(["told"]):
                    time.sleep(SECONDS_BETWEEN_SIGNS / 4)
                if not first or self._store.check(["told"]):
                    error.add_note(TOLD)

    def part(self) -> None:
        """This process is done; nobody is to miss it."""
        self._over.set()
        with contextlib.suppress(RuntimeError):
            self._store.set(f"parted/{self.number}", "1")

    def _watch(self) -> None:
        seen = {other: (-1, time.monotonic()) for other in self._watched()}
        looked = time.monotonic()
        while not self._over.wait(SECONDS_BETWEEN_SIGNS):
            try:
                signs, ending = self._signs(sign=True), self._ending()
                parted = {other for other in seen if self._parted(other)}
            except RuntimeError:
                signs, parted = {}, set()
                ending = Ending(0, "or the launcher is gone without a word", EnvironmentFault.exit_code)
            now = time.monotonic()
            held_up = now - looked > 5 * SECONDS_BETWEEN_SIGNS  # this process was stopped itself: a fresh start
            looked = now
            for other, (sign, since) in seen.items():
                fresh = held_up or not self._strict or other in parted or signs.get(other, sign) != sign
                seen[other] = (signs.get(other, sign), now) if fresh else (sign, since)
                if ending is None and now - seen[other][1] > self._silence_s:
                    what = f"has given no sign of life for {self._silence_s:g} s: it hangs, or was stopped or killed"
                    ending = Ending(other, what, EnvironmentFault.exit_code)
            if ending is not None:
                self._leave(ending)
                return

    def _leave(self, ending: Ending) -> None:
        """End this process from beside its main thread, which may wait for ever for one that is gone."""
        if self._over.wait(SECONDS_OF_GRACE):
            return  # it ends by itself, with its own words
        try:
            speaks = self._say(ending) or self.number == 0
        except RuntimeError:
            speaks = self.number == 1
        if speaks:
            fault = self.fault(ending)
            write(sys.__stderr__ or sys.stderr, fault.render())
            tell_launcher(str(fault))
            with contextlib.suppress(RuntimeError):
                self._store.set("told", "1")
        if self.number == 0:
            self.on_end(str(self.fault(ending)))
        sys.stdout.flush()
        os._exit(ending.exit_code)

    def _say(self, ending: Ending) -> bool:
        """Whether this ending is the first that was said."""
        said = json.dumps([ending.process, ending.what, ending.exit_code, self.number])
        return bool(self._store.compare_set("ended", "", said).decode() == said)

    def _ending(self) -> Ending | None:
        if not self._store.check(["ended"]):
            return None
        process, what, exit_code, _ = json.loads(self._store.get("ended").decode())
        return Ending(process, what, exit_code)

    def _parted(self, other: int) -> bool:
        return bool(self._store.check([f"parted/{other}"]))

    def _signs(self, *, sign: bool = False) -> dict[int, int]:
        """How many signs of life each process that this one looks at has given; `sign` gives one."""
        if sign:
            self._store.add(f"sign/{self.number}", 1)
        return {other: int(self._store.add(f"sign/{other}", 0)) for other in self._watched()}

    def _watched(self) -> list[int]:
        """The writer looks after all, the others after the writer."""
        return list(range(1, self.count)) if self.number == 0 else [0]


_present = Company()


def company() -> Company:
    """The processes that train now; one alone outside of `joined`."""
    return _present


@contextlib.contextmanager
def joined(settings: AnyTraining) -> Iterator[Company]:
    """Find the other processes, as many as the launcher started, and stay together until one of them ends.

    Raises RecipeError where launcher, machine and recipe do not agree, and EnvironmentFault when not all come.
    """
    global _present
    extra: dict[str, Any] = dict(getattr(settings, "extra", {}))
    precision = "bf16" if settings.bf16 else "fp16" if settings.fp16 else "no"
    refuse_lost_processes()
    refuse_unlike_launch(use_cpu=settings.use_cpu, precision=precision, extra=extra, gpus=torch.cuda.device_count())
    if process_count() == 1:
        yield _present
        return
    _join_group(settings, extra)
    _present = Company(
        number=process_number(), count=process_count(), silence_s=float(extra.get("ddp_timeout") or SECONDS_OF_SILENCE)
    )
    _present.connect(_own_store())
    try:
        yield _present
    except BaseException as error:
        told = _cause(error, _present)
        _present.end(told)
        if told is not error:
            raise told from error
        raise
    else:
        _present.part()
    finally:
        _present = Company()


def _own_store() -> Any:
    """A connection of its own to the store of the default group, whose waiting reads keep others out."""
    store = TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False,
        timeout=timedelta(seconds=SECONDS_OF_SILENCE),
    )  # fmt: skip
    return PrefixStore(f"finetune/{next(_companies)}", store)


def _cause(error: BaseException, present: Company) -> BaseException:
    """The launcher stops all the others when one process ends: then that is what the user is told."""
    if not isinstance(error, Stopped):
        return error
    gone = present.who_is_gone()
    return error if gone is None or gone.exit_code == Stopped.exit_code else present.fault(gone)


def _join_group(settings: AnyTraining, extra: Mapping[str, Any]) -> None:
    """torch.distributed's default group, which transformers and accelerate then find."""
    if not torch.distributed.is_initialized():
        if not settings.use_cpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = extra.get("ddp_backend") or ("gloo" if settings.use_cpu else None)
        timeout = timedelta(seconds=float(extra.get("ddp_timeout") or SECONDS_OF_EXCHANGE))
        try:
            torch.distributed.init_process_group(backend, timeout=timeout)
        except (RuntimeError, ValueError) as error:
            raise _no_meeting(str(error)) from error
    seen = torch.distributed.get_world_size()
    if seen != process_count():
        what = f"{process_count()} processes were started, and {seen} found each other"
        raise EnvironmentFault("WORLD_SIZE", what, "Start them all with one launcher.")


def _no_meeting(said: str) -> EnvironmentFault:
    address, port = os.environ.get("MASTER_ADDR", "not set"), os.environ.get("MASTER_PORT", "not set")
    if "EADDRINUSE" in said or "in use" in said:
        do = "torchrun --standalone, or accelerate launch --main_process_port 0, takes a free one."
        return EnvironmentFault("MASTER_PORT", f"port {port} is in use by another program", do)
    first_line = said.strip().splitlines()[0][:200] if said.strip() else "no reason given"
    what = f"the processes did not find each other at {address}, port {port} ({first_line})"
    return EnvironmentFault("MASTER_ADDR", what, "All must be started, and reach that address.")
