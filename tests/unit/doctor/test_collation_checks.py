"""Verdicts on collations from what the script said."""

from __future__ import annotations

from fabfile.doctor.collation_checks import judge


def test_where_nobody_was_asked_nothing_is_said():
    assert judge(None) == []
    assert judge((11, "")) == []


def test_collations_that_are_as_recorded():
    [check] = judge((0, ""))
    assert check.ok


def test_what_has_changed_is_named_with_the_number_of_indexes():
    said = """\
database nocodb 2.36 2.41
collation public.de 153.14 153.120
index nocodb public.a
index nocodb public.b
"""
    [check] = judge((0, said))
    assert not check.ok
    assert "database nocodb (2.36, now 2.41), collation public.de (153.14, now 153.120)" in (
        check.detail
    )
    assert "2 indexes" in check.detail
    assert check.hint == "inv db.reindex"
    many = "".join(f"database d{i} 1 2\n" for i in range(5))
    assert "and 2 more; 0 indexes" in judge((0, many))[0].detail
