"""A wrong command line is a usage error like any other: one line, the next step, exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from invoke.parser import Parser

from fabfile import namespace
from fabfile.terminal.command import _names, with_flags

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("deploy-db --nope", "error: No idea what '--nope' is!\n  next: see: inv --help deploy-db"),
        ("deploy-bd", "error: No idea what 'deploy-bd' is!\n  next: see: inv --list"),
        ("--nope", "error: No idea what '--nope' is!"),
        ("backup.list --limit x", "error: a flag needs a whole number"),
        ("backup.list --limit -1", "error: "),
        ("backup.logs --lines 0", "error: --lines 0: must be a number of lines, 1 or more"),
        (
            "deploy --resolve often",
            "error: --resolve: 'often' is not one of always, changed, never",
        ),
        ("upgrade-db", "error: say one of: a version such as 17-bookworm"),
        ("upgrade-db 17-bookworm --undo", "error: say one of: a version"),
        # The word behind it is an app, or the next command.
        ("deploy-app nobody", "error: 'nobody' is no stack of ours"),
        ("upgrade-db --undo --finish", "error: say one of: a version"),
        ("upgrade-app", "error: 'upgrade-app' did not receive required positional arguments"),
        ("plan --resolve often", "error: --resolve: 'often' is not one of"),
        ("status --hosts /no/such/hosts.yaml", "error: /no/such/hosts.yaml: no such hosts file"),
    ],
)
def test_wrong_usage_is_exit_code_2(line, said):
    run = subprocess.run(
        [sys.executable, "-m", "invoke", *line.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stderr.startswith(said)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr


def test_a_word_behind_a_command_is_no_app_if_it_is_a_command():
    assert with_flags(["deploy-app", "kinto"]) == ["deploy-app", "--app=kinto"]
    assert with_flags(["deploy-app", "backup.run"], {"backup.run"}) == ["deploy-app", "backup.run"]
    assert with_flags(["deploy-app", "--yes"]) == ["deploy-app", "--yes"]
    assert _names(Parser(namespace.to_contexts())) >= {"deploy-app", "backup.run", "status"}
