"""A command line run in this process, as Invoke runs it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from invoke.collection import Collection
from invoke.program import Program

Run = Callable[..., tuple[int, str, str]]


def runner(tree: Collection, capsys: pytest.CaptureFixture[str]) -> Run:
    """Given the command tree, return what runs a line of it: exit code, stdout, stderr.

    Whatever it shows is searched for tracebacks and for the tests' secrets.
    """

    def run(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            Program(namespace=tree).run(["inv", *arguments])
        except SystemExit as left:
            code = int(left.code or 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert "internal error" not in captured.err
        assert "must-not-show" not in captured.out + captured.err
        return code, captured.out, captured.err

    return run
