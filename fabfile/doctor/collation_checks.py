"""Verdict on collations of the running database, from what `reindex-pg.sh check` said. Pure."""

from __future__ import annotations

from fabfile.base.check import Check

_NAME = "collations"


def judge(said: tuple[int, str] | None) -> list[Check]:
    """Check that text sorts as when its indexes were built; None where that was not asked."""
    if said is None or said[0]:
        # Where the database does not run, or the script is not there, other checks say so.
        return []
    lines = [line.split() for line in said[1].splitlines()]
    changed = [words for words in lines if words and words[0] in ("database", "collation")]
    if not changed:
        return [Check(_NAME, True, "text sorts as when its indexes were built")]
    indexes = sum(words[0] == "index" for words in lines if words)
    names = ", ".join(
        f"{words[0]} {words[1]} ({words[2]}, now {words[3]})"
        for words in changed[:3]
        if len(words) == 4
    )
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return [
        Check(
            _NAME,
            False,
            f"other versions than recorded: {names}{more}; {indexes} indexes may not find what is "
            "there",
            "inv db.reindex",
        )
    ]
