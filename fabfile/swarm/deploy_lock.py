"""One deploy at a time: a lock in the Swarm itself, with a lease that the living renew.

The lock is a Docker config of a fixed name: making one is atomic in the whole Swarm,
whichever manager is asked. A holder shows that it lives by beats (configs too, since a
config cannot be changed); one without a sign of life for LEASE_SECONDS is dead, and the next
one may take the lock away. All times are the Swarm leader's own: it stamps what it makes.

Two never change things together, even if a holder slept through its lease and wakes up:

- A change runs only behind a guard: make a mark, then look whether the lock is still ours,
  then change, for at most CHANGE_SECONDS; then the mark goes.
- Who takes a dead holder's lock makes its own first and then looks for marks: a young one
  means that a change may be running, and the lock is given back until that is over.

Each makes its own sign before it looks for the other's, so one of the two always sees the other.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.fleet import Host
from fabfile.ssh.remote_command import Command, Result
from fabfile.swarm import deploy_lock_scripts, operator
from fabfile.swarm.deploy_lock_scripts import (
    LOST,
    NO_ANSWER,
    Answer,
    Holder,
    Names,
)
from fabfile.swarm.deploy_lock_times import (
    BEAT_SECONDS,
    CHANGE_SECONDS,
    LEASE_SECONDS,
    POLL_SECONDS,
)
from fabfile.swarm.operator import Origin
from fabfile.swarm.state_reading import split_sections

Say = Callable[[str], None]


class LockedError(SwarmkeepError):
    """Somebody else holds the lock."""


class LockLostError(SwarmkeepError):
    """The lock was taken away from us: we must not change anything any more."""


class Lease:
    """The lock while it is ours."""

    def __init__(self, manager: Host, lock_id: str, token: str, output: Mapping[str, str]) -> None:
        self.manager = manager
        self.output = output
        """Sections of what was run in the round trip that got the lock."""
        self._id = lock_id
        self._names = _names(manager)
        self._token = token
        self._numbers = itertools.count(1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self.released = False
        """Whether it has been given back."""

    def change(self, script: str, stdin: bytes = b"") -> Result:
        """Run a script that changes something, if the lock is still ours; return its result.

        Raises LockLostError, or SwarmkeepError if it takes longer than CHANGE_SECONDS.
        """
        guarded = self._guarded(script)
        result = self.manager.run(Command(guarded, stdin))
        self._check(result)
        return result

    def finish(self, script: str, stdin: bytes = b"") -> Result:
        """A last change, and the lock given back, in one round trip; return the change's result.

        Raises as `change`: whoever lost the lock meanwhile has nothing to finish.
        """
        guarded = self._guarded(script)
        result = self._give_back(f"(\n{guarded})\ncode=$?\n", "exit $code\n", stdin)
        self._check(result)
        return result

    def release(self, script: str = "") -> Result:
        """Give the lock back, after a script that is no change (a line in the log)."""
        return self._give_back(script, "exit 0\n", b"")

    def _guarded(self, script: str) -> str:
        number = next(self._numbers)
        return deploy_lock_scripts.guard_script(self._names, self._id, self._token, number, script)

    def _give_back(self, first: str, last: str, stdin: bytes) -> Result:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(BEAT_SECONDS)
        self.released = True
        give_back = deploy_lock_scripts.give_back_script(self._names, self._id, self._token)
        return self.manager.run(Command(first + give_back + last, stdin))

    def start(self) -> None:
        """Begin to show signs of life."""
        self._thread.start()

    def end(self) -> None:
        """Give the lock back, if that has not been done and the manager can be reached."""
        self._over.set()
        if not self.released:
            # On a manager that is gone, the lease ends by itself.
            with contextlib.suppress(SwarmkeepError):
                self.release()

    def _live(self) -> None:
        for number in itertools.count(1):
            if self._over.wait(BEAT_SECONDS):
                return
            script = deploy_lock_scripts.beat_script(self._names, self._id, self._token, number)
            try:
                result = self.manager.run(Command(script))
            except SwarmkeepError:
                # The next change meets the same and reports it.
                return
            if result.exit_code == LOST:
                return

    def _check(self, result: Result) -> None:
        if result.exit_code == LOST:
            raise LockLostError(
                f"{result.host}: the deploy lock is no longer ours: somebody ran 'inv unlock', or "
                f"this machine was silent for over {LEASE_SECONDS} s; nothing more was changed",
                hint="see who deploys now (inv audit, inv status), then run again",
            )
        if result.exit_code == NO_ANSWER:
            raise SwarmkeepError(
                f"{result.host}: the Swarm does not answer: {result.stderr.strip()}",
                hint="has it lost its quorum of managers? see docker node ls",
            )
        if result.exit_code == 124:  # timeout(1)
            raise SwarmkeepError(
                f"{result.host}: a change took longer than {CHANGE_SECONDS} s and was ended",
                hint="is the manager overloaded, or its registry slow? check both, then run again",
            )


@contextmanager
def held(
    manager: Host, who: Origin, why: str, *, wait: bool, say: Say, also: str = ""
) -> Iterator[Lease]:
    """The lock, for the length of the block. `also` is run once it is ours, in the same round trip.

    Raises LockedError naming the holder; with `wait`, waits for it instead.
    """
    lease = _acquire(manager, who, why, wait=wait, say=say, also=also)
    lease.start()
    try:
        yield lease
    finally:
        lease.end()


def peek(manager: Host) -> Holder | None:
    """Who holds the lock, None if it is free."""
    names = _names(manager)
    result = manager.run(Command(deploy_lock_scripts.peek_script(names), changes=False))
    return _answer(names, result, "").holder


def take_away(manager: Host, holder: Holder) -> bool:
    """Take a holder's lock away; return whether it still had it."""
    return (
        manager.run(Command(deploy_lock_scripts.break_script(_names(manager), holder))).exit_code
        == 0
    )


def _acquire(manager: Host, who: Origin, why: str, *, wait: bool, say: Say, also: str) -> Lease:
    names, token = _names(manager), secrets.token_hex(8)
    about = json.dumps({"who": who.who, "why": why, "process": operator.process()}).encode()
    script = deploy_lock_scripts.attempt_script(names, token) + also
    told = ""
    while True:
        answer = _answer(names, manager.run(Command(script, about)), token)
        if answer.taken and not answer.changing:
            if answer.leftovers:
                manager.run(Command(deploy_lock_scripts.tidy_script(answer.leftovers)))
            return Lease(manager, answer.taken, token, answer.output)
        holder = answer.holder
        if answer.taken:
            manager.run(Command(deploy_lock_scripts.give_back_script(names, answer.taken, token)))
        elif holder and (holder.expired or operator.has_ended(holder.process)):
            say(f"taking the lock of a client that is gone: {holder}")
            take_away(manager, holder)
            continue
        if holder and not wait:
            raise LockedError(
                f"another deploy is running: {holder}",
                hint="wait for it with --wait; if that client is gone, its lock ends "
                f"{LEASE_SECONDS} s after its last sign of life, or at once with: inv unlock",
            )
        # Without a holder there is only the end of somebody's last change to wait for.
        text = str(holder).partition(" (")[0] if holder else "the last change of a lost client"
        if text != told:
            say(f"waiting for {text}")
            told = text
        time.sleep(POLL_SECONDS)


def _names(manager: Host) -> Names:
    return Names(manager.inventory.project)


def _answer(names: Names, result: Result, token: str) -> Answer:
    answer = deploy_lock_scripts.parse(names, split_sections(result.stdout), token)
    if answer is None:
        said = result.stderr.strip().splitlines()
        raise SwarmkeepError(
            f"{result.host}: the deploy lock cannot be read: {said[-1] if said else 'no output'}",
            hint="is it a manager of a healthy Swarm? try: docker node ls",
        )
    return answer
