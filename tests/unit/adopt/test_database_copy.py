"""What becomes of the databases' names, and of what differs."""

from __future__ import annotations

from typing import Any

import pytest

from fabfile.adopt import database_copy


class FakeServer:
    """A server that knows names, and notes what is done."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.did: list[str] = []

    def sql(
        self, text: str, _what: str, _database: str = "postgres", *, changes: bool = True
    ) -> str:
        if "FROM pg_database d" in text:
            return '"the owner"\n'
        if text.startswith("SELECT datname"):
            return "".join(f"{name}\n" for name in self.names)
        if changes and not text.lstrip().startswith("SELECT"):
            self.did.append(text)
        return ""


def server(*names: str) -> Any:
    return FakeServer("postgres", *names)


def test_an_unfinished_copy_is_removed_and_the_empty_database_is_back():
    one = server("nocodb", "nocodb_before_adopt", "other")
    database_copy.abandon(one)
    assert one.did == [
        'DROP DATABASE IF EXISTS "nocodb"',
        'ALTER DATABASE "nocodb_before_adopt" RENAME TO "nocodb"',
    ]
    nothing = server("nocodb")
    database_copy.abandon(nothing)
    assert nothing.did == []


def test_a_finished_copy_stays():
    one = server("nocodb", "nocodb_before_adopt")
    database_copy.settle(one)
    assert one.did == ['DROP DATABASE "nocodb_before_adopt"']


@pytest.mark.parametrize("cut_off", [False, True])
def test_nothing_that_was_written_is_dropped_by_going_back(cut_off):
    one = server("nocodb", *(["nocodb_before_adopt"] if cut_off else []))
    (kept,) = database_copy.set_aside(one, ["nocodb"])
    assert kept.startswith("nocodb_adopted_2")
    assert one.did == [
        f'ALTER DATABASE "nocodb" RENAME TO "{kept}"',
        'ALTER DATABASE "nocodb_before_adopt" RENAME TO "nocodb"'
        if cut_off
        else 'CREATE DATABASE "nocodb" OWNER "the owner"',
    ]


def test_what_differs_is_shown_without_passwords():
    error = database_copy.differing("roles", "differs", ["role a x password=md5secret"], ["role b"])
    assert error.message.startswith("roles: differs in 2 lines")
    assert error.details == ("source: role a x", "copy: role b")
