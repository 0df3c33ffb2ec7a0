"""Telling what happens while it happens: a line per finished step, and a sign of life between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fabfile.base.errors import SwarmkeepError

SIGN_OF_LIFE = 5.0  # seconds


class Step:
    """A step that is under way. Anything may say what it is doing just now."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.detail = ""
        self.note = ""
        self.started = time.monotonic()

    def doing(self, detail: str) -> None:
        """Say what is being done now; shown if the step takes long."""
        self.detail = detail

    def found(self, note: str) -> None:
        """Say how it ended; shown behind the step's title."""
        self.note = note

    def seconds(self) -> float:
        """How long it has been under way."""
        return time.monotonic() - self.started


class Progress:
    """Steps, also several at a time, as lines. `say` prints one line."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._running: list[Step] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._voice: threading.Thread | None = None

    def __enter__(self) -> Progress:
        self._voice = threading.Thread(target=self._sign_of_life, daemon=True)
        self._voice.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._voice:
            self._voice.join()

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Run one step; its error is raised again with the step's name in front."""
        step = Step(title)
        with self._lock:
            self._running.append(step)
        try:
            yield step
        except SwarmkeepError as error:
            self._finish(step, "FAILED")
            if error.message.startswith("lab: "):
                raise
            raise type(error)(
                f"lab: {title}: {error.message}", hint=error.hint, details=error.details
            ) from error
        except BaseException:
            self._finish(step, "stopped")
            raise
        else:
            self._finish(step, "")

    def _finish(self, step: Step, problem: str) -> None:
        outcome = ": ".join(part for part in (step.title, problem or step.note) if part)
        with self._lock:
            self._running.remove(step)
            self._say(f"{step.seconds():6.1f}s  {outcome}")

    def _sign_of_life(self) -> None:
        while not self._ended.wait(SIGN_OF_LIFE):
            with self._lock:
                for step in self._running:
                    if step.seconds() >= SIGN_OF_LIFE:
                        detail = f": {step.detail[:90]}" if step.detail else ""
                        self._say(f"      ..  {step.title}, {step.seconds():.0f}s{detail}")
