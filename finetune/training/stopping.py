"""Ctrl-C and SIGTERM: inside the training loop a request to save and stop, elsewhere the end at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from finetune.errors import Stopped


class StopRequest:
    """Set by a signal; `pending()` is asked after every step and every batch of an evaluation."""

    def __init__(self, *, where: str, resume_hint: str) -> None:
        self._where, self._resume_hint = where, resume_hint
        self._received: int | None = None
        self._saving = False

    def pending(self) -> bool:
        return self._received is not None

    def error(self, *, saved: str) -> Stopped:
        """What to raise once the state is safe; `saved` names it."""
        return self._stopped(f"stopped by {signal.Signals(self._received or signal.SIGTERM).name}; {saved}")

    def _stopped(self, what: str) -> Stopped:
        return Stopped(self._where, what, self._resume_hint, by_user=self._received == signal.SIGINT)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Catch both signals for the whole run."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread only
            return
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def saving_first(self) -> Iterator[None]:
        """Within the training loop, which looks at `pending()` and saves before it stops."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self._received is not None
        self._received = number
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self._saving:
            raise self._stopped(f"stopped by {signal.Signals(number).name}")
