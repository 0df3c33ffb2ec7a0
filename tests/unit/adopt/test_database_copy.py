"""What becomes of the databases' names, and of what differs."""

from __future__ import annotations

from typing import Any

import pytest

from fabfile.adopt import database_copy, database_names


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
    database_names.abandon(one)
    assert one.did == [
        'DROP DATABASE IF EXISTS "nocodb"',
        'ALTER DATABASE "nocodb_before_adopt" RENAME TO "nocodb"',
    ]
    nothing = server("nocodb")
    database_names.abandon(nothing)
    assert nothing.did == []


def test_a_finished_copy_stays():
    one = server("nocodb", "nocodb_before_adopt")
    database_names.settle(one)
    assert one.did == ['DROP DATABASE "nocodb_before_adopt"']


@pytest.mark.parametrize("cut_off", [False, True])
def test_nothing_that_was_written_is_dropped_by_going_back(cut_off):
    one = server("nocodb", *(["nocodb_before_adopt"] if cut_off else []))
    database_names.set_aside(one, {"nocodb": "nocodb_adopted"})
    assert one.did == [
        'ALTER DATABASE "nocodb" RENAME TO "nocodb_adopted"',
        'ALTER DATABASE "nocodb_before_adopt" RENAME TO "nocodb"'
        if cut_off
        else 'CREATE DATABASE "nocodb"',
    ]


@pytest.mark.parametrize(
    ("there", "did"),
    [
        (("nocodb_adopted",), ['CREATE DATABASE "nocodb"']),
        (("nocodb", "nocodb_adopted"), []),
    ],
)
def test_going_back_may_be_repeated(there, did):
    one = server(*there)
    database_names.set_aside(one, {"nocodb": "nocodb_adopted"})
    assert one.did == did


def test_positions_of_sequences_are_left_out_where_others_write():
    lines = ["sequence public.a 1,1 17 true", "rows public.b 3"]
    assert database_copy._without_positions(lines) == ["rows public.b 3", "sequence public.a 1,1"]


def test_what_differs_is_shown_without_passwords():
    error = database_copy.differing("roles", "differs", ["role a x password=md5secret"], ["role b"])
    assert error.message.startswith("roles: differs in 2 lines")
    assert error.details == ("source: role a x", "copy: role b")
