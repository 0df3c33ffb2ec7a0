"""The deploy lock's scripts as text, and what their output says. See deploy_lock.py."""

from __future__ import annotations

import base64
import binascii
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fabfile.base import json_text
from fabfile.swarm.deploy_lock_times import CHANGE_SECONDS, LEASE_SECONDS
from fabfile.swarm.docker_commands import RECORD_LABEL
from fabfile.swarm.state import age_seconds

LOST, NO_ANSWER = 75, 76
"""Exit codes of a guarded script: the lock is not ours any more; the Swarm does not answer."""


@dataclass(frozen=True)
class Names:
    """What the lock of a project is called, and the labels of its signs of life and of its
    changes: one project's lock says nothing to another.
    """

    project: str = ""

    @property
    def lock(self) -> str:
        """The config that is the lock."""
        return f"swarmkeep-lock-{self.project}" if self.project else "swarmkeep-lock"

    @property
    def beat(self) -> str:
        """The label of signs of life."""
        return f"swarmkeep.beat.{self.project}" if self.project else "swarmkeep.beat"

    @property
    def change(self) -> str:
        """The label of marks of running changes."""
        return f"swarmkeep.change.{self.project}" if self.project else "swarmkeep.change"


@dataclass(frozen=True)
class Holder:
    """Who has the lock. `since` is RFC 3339, `silent` the seconds since the last sign of life.

    `process` identifies the client's process on its own machine (see swarm/operator.py).
    """

    id: str
    who: str
    why: str
    process: str
    since: str
    silent: float

    @property
    def expired(self) -> bool:
        """Whether its lease is over."""
        return self.silent > LEASE_SECONDS

    def __str__(self) -> str:
        return (
            f"{self.who} since {self.since[:19]}Z for '{self.why}' "
            f"(last sign of life {self.silent:.0f} s ago)"
        )


@dataclass(frozen=True)
class Answer:
    """What the Swarm said to an attempt: our lock's id, or who holds it.

    `changing` tells whether a change of somebody else's may still be running. `output`
    has all sections of the output, for whoever asked for more in the same round trip.
    `leftovers` are ids of signs that nobody who lives has made.
    """

    taken: str
    holder: Holder | None
    changing: bool
    output: Mapping[str, str]
    leftovers: tuple[str, ...] = ()


def attempt_script(names: Names, token: str) -> str:
    """The script that tries to make the lock and tells who has it. It ends there if not we."""
    make = _make_config(names.lock, {RECORD_LABEL: "lock"})
    clock = f"swarmkeep-clock-{token}"
    probe = _make_config(clock, {RECORD_LABEL: "clock"})
    return (
        # Nobody to tell it to, a client that was killed, is no reason to leave the clock behind.
        "trap '' PIPE\n"
        f"id=$({make}) || id=\n"
        # What the leader has just stamped tells its time.
        f'if [ -n "$id" ]; then now=$id; else now=$(echo now | {probe}); fi\n'
        "echo; echo '--swarmkeep taken--'; echo \"$id\"\n"
        "echo; echo '--swarmkeep clock--'\n"
        "docker config inspect --format '{{json .CreatedAt}}' $now\n"
        f'[ -n "$id" ] || docker config rm {clock} >/dev/null\n'
        + _show_lock(names)
        + '[ -n "$id" ] || exit 0\n'
    )


def peek_script(names: Names) -> str:
    """The script that shows the lock without touching anything. It fails where Docker does."""
    return (
        f"docker config ls -q --filter label={RECORD_LABEL} >/dev/null || exit 1\n"
        "echo; echo '--swarmkeep taken--'\n"
        "echo; echo '--swarmkeep clock--'; date -u +%Y-%m-%dT%H:%M:%SZ\n"
        + _show_lock(names)
        + "exit 0\n"
    )


def _show_lock(names: Names) -> str:
    return (
        f"echo; echo '--swarmkeep lock--'; docker config inspect {names.lock} 2>/dev/null\n"
        "echo; echo '--swarmkeep signs--'\n"
        # A beat that has gone since it was listed has a younger one in its place: list again.
        "for n in 1 2 3 4 5; do\n"
        f"b=$(docker config ls -q --filter label={names.beat};"
        f" docker config ls -q --filter label={names.change};"
        f" docker config ls -q --filter label={RECORD_LABEL}=clock)\n"
        's=\n[ -n "$b" ] || break\n'
        "s=$(docker config inspect $b 2>/dev/null) && break\ndone\n"
        "printf '%s\\n' \"$s\"\n"
    )


def parse(names: Names, output: Mapping[str, str], token: str) -> Answer | None:
    """Given the sections of an attempt's output, return what they say; None if they say nothing."""
    clock = output.get("clock", "").strip().strip('"')
    if not clock:
        return None
    taken = output["taken"].strip()
    locks, found = _items(output.get("lock", "")), _items(output.get("signs", ""))
    signs = [sign for sign in found if sign["Spec"]["Labels"].get(RECORD_LABEL) != "clock"]
    # Where somebody's lock went away between two commands there is no holder: try again.
    holder = None if taken or not locks else _holder(locks[0], signs, clock)
    changing = any(
        sign["Spec"]["Labels"].get(names.change, token) != token
        and age_seconds(sign["CreatedAt"], clock) <= LEASE_SECONDS
        for sign in signs
    )
    # Of a client, or a manager, that ended hard. A clock lives for a moment.
    leftovers = tuple(
        str(sign["ID"]) for sign in found if age_seconds(sign["CreatedAt"], clock) > LEASE_SECONDS
    )
    return Answer(taken, holder, changing, output, leftovers)


def guard_script(names: Names, lock_id: str, token: str, number: int, script: str) -> str:
    """The script that runs another one if the lock is still ours, marked while it runs."""
    mark = f"swarmkeep-change-{token}-{number}"
    make = _make_config(mark, {RECORD_LABEL: "change", names.change: token})
    return (
        _sign_script(lock_id, mark, make)
        + f"timeout {CHANGE_SECONDS} sh -c {shlex.quote(script)}\n"
        + f"code=$?\ndocker config rm {mark} >/dev/null 2>&1\nexit $code\n"
    )


def beat_script(names: Names, lock_id: str, token: str, number: int) -> str:
    """The script that shows a sign of life."""
    beat = f"swarmkeep-beat-{token}-{number}"
    make = _make_config(beat, {RECORD_LABEL: "beat", names.beat: token})
    return (
        _sign_script(lock_id, beat, make)
        + f"docker config rm swarmkeep-beat-{token}-{number - 1} >/dev/null 2>&1 || :\n"
    )


def give_back_script(names: Names, lock_id: str, token: str) -> str:
    """The script that removes our lock and our signs of life."""
    return (
        f"docker config rm {lock_id} >/dev/null 2>&1\n"
        f"b=$(docker config ls -q --filter label={names.beat}={token})\n"
        '[ -z "$b" ] || docker config rm $b >/dev/null 2>&1\n'
    )


def tidy_script(leftovers: tuple[str, ...]) -> str:
    """The script that removes signs which nobody who lives has made."""
    return f"docker config rm {' '.join(map(shlex.quote, leftovers))} >/dev/null 2>&1 || :\n"


def break_script(names: Names, holder: Holder) -> str:
    """The script that takes a holder's lock away, with all signs of life.

    By its id: a lock that somebody else made meanwhile is another one. A mark of a
    running change stays: whoever comes next waits until that is over.
    """
    return (
        f"docker config rm {shlex.quote(holder.id)} >/dev/null || exit 1\n"
        f"b=$(docker config ls -q --filter label={names.beat})\n"
        '[ -z "$b" ] || docker config rm $b >/dev/null 2>&1\n'
        "exit 0\n"
    )


def _sign_script(lock_id: str, name: str, make: str) -> str:
    """Make a sign, then look whether the lock is ours: in this order, see swarm/deploy_lock.py."""
    return (
        f"echo sign | {make} >/dev/null || exit {NO_ANSWER}\n"
        f"l=$(docker config ls -q --filter id={lock_id}) || exit {NO_ANSWER}\n"
        f'[ -n "$l" ] || {{ docker config rm {name} >/dev/null 2>&1; exit {LOST}; }}\n'
    )


def _make_config(name: str, labels: Mapping[str, str]) -> str:
    words = " ".join(f"--label {key}={value}" for key, value in labels.items())
    return f"docker config create {words} {name} -"


def _holder(item: Mapping[str, Any], signs: list[dict[str, Any]], clock: str) -> Holder:
    try:
        said = json_text.parse(base64.b64decode(item["Spec"]["Data"]))
    except (ValueError, KeyError, binascii.Error):
        said = {}
    ages = [age_seconds(sign["CreatedAt"], clock) for sign in (item, *signs)]
    return Holder(
        id=str(item["ID"]),
        who=str(said.get("who", "somebody")),
        why=str(said.get("why", "?")),
        process=str(said.get("process", "")),
        since=str(item["CreatedAt"]),
        silent=max(0.0, min(ages)),
    )


def _items(text: str) -> list[dict[str, Any]]:
    try:
        items: list[dict[str, Any]] = json_text.parse(text) if text.strip() else []
    except ValueError:
        return []
    return items
