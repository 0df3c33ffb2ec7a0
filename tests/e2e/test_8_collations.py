"""Collations that have changed under a database: seen, proven, repaired in the right order.

The lab's own databases sort by C.UTF-8, which has no version: one of ICU's is made, and what is
recorded of it is changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.live import sql

NAME = "sorted"


@pytest.fixture(autouse=True)
def sorted_database(deployed, product, lab) -> Iterator[None]:
    product.ok("backup.install")
    icu = "LOCALE_PROVIDER icu ICU_LOCALE 'de' LOCALE 'C.UTF-8'"
    sql(lab, f"CREATE DATABASE {NAME} TEMPLATE template0 {icu}")
    sql(lab, "CREATE TABLE words (word text UNIQUE, n int PRIMARY KEY)", NAME)
    sql(lab, 'CREATE INDEX "Odd \'name" ON words (lower(word))', NAME)
    sql(lab, "INSERT INTO words SELECT 'word ' || i, i FROM generate_series(1, 1000) i", NAME)
    yield
    sql(lab, f"DROP DATABASE {NAME} WITH (FORCE)")


def another_version(lab) -> None:
    sql(lab, f"UPDATE pg_database SET datcollversion = '1.0' WHERE datname = '{NAME}'")


def doctor(product) -> dict[str, object]:
    ran = product.inv("doctor", "--json")
    return next(c for c in json.loads(ran.out)["checks"] if c["name"] == "collations")


def test_seen_and_repaired(product, lab):
    assert doctor(product)["ok"]
    assert "nothing to do" in product.ok("db.reindex").out
    another_version(lab)
    check = doctor(product)
    assert not check["ok"]
    assert f"database {NAME} (1.0, now " in str(check["detail"])
    # The primary key is of numbers.
    assert "2 indexes" in str(check["detail"])
    assert "run again with --yes" in product.fails(2, "db.reindex").err
    assert not doctor(product)["ok"]
    ran = product.ok("db.reindex", "--yes")
    assert "public.words_word_key was good, built anew" in ran.out
    assert 'public."Odd \'name" was good, built anew' in ran.out
    assert "reindexed: 2 indexes" in ran.out
    assert doctor(product)["ok"]
    assert sql(lab, "SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'", NAME) == "0"


def test_index_that_cannot_be_built_keeps_its_version_on_record(product, lab):
    """Rows are there twice, which the damaged index did not notice."""
    ready = "UPDATE pg_index SET indisready = {} WHERE indexrelid = 'words_word_key'::regclass"
    sql(lab, ready.format("false"), NAME)
    sql(lab, "INSERT INTO words VALUES ('word 7', 1001)", NAME)
    sql(lab, ready.format("true"), NAME)
    another_version(lab)
    ran = product.fails(4, "db.reindex", "--yes")
    assert "public.words_word_key" in ran.err
    assert "where rows are there twice" in ran.err
    assert not doctor(product)["ok"]
    invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
    assert sql(lab, invalid, NAME) == "0"
    sql(lab, "DELETE FROM words WHERE n = 1001", NAME)
    product.ok("db.reindex", "--yes")
    assert doctor(product)["ok"]
