"""Ctrl-C and SIGTERM: inside the training loop a request to save and stop, elsewhere the end at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from finetune.errors import Stopped


class StopRequest:
    """Set by a signal; `pending()` is asked after every step and every batch of an evaluation.

    `resume_hint` says how to go on, as things stand; it changes once there is a run to go on with.
    """

    def __init__(self, *, where: str, resume_hint: str) -> None:
        self.resume_hint = resume_hint
        self._where = where
        self._received: int | None = None
        self._saving = False

    def pending(self) -> bool:
        return self._received is not None

    def error(self, *, saved: str) -> Stopped:
        """What to raise once the state is safe; `saved` names it."""
        return self._stopped(saved)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Catch both signals for the whole run; they leave here as Stopped."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread only
            return
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        except KeyboardInterrupt:
            raise self._stopped() from None
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
        if self.pending():  # it came after the loop had looked for the last time
            raise self._stopped("the training is done and saved")

    def _stopped(self, saved: str = "") -> Stopped:
        received = signal.Signals(self._received or signal.SIGINT)
        what = f"stopped by {received.name}" + (f"; {saved}" if saved else "")
        return Stopped(self._where, what, self.resume_hint, by_user=received == signal.SIGINT)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.pending()
        self._received = number
        # Not an Exception: the libraries below catch those, and the request would be lost in them.
        if not self._saving or (again and number == signal.SIGINT):
            raise KeyboardInterrupt
