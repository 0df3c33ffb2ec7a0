"""Questions on a real terminal: what every answer leads to, and that none ends in a traceback."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fabfile.vault.encryption import encrypt

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[3]
CTRL_C, CTRL_D = b"\x03", b"\x04"
# The pseudo-terminal becomes the one that Ctrl-C comes from; a parent may have ignored that.
RUN = """
import fcntl, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
from invoke.main import program
program.run()
"""
TASKS = """
from fabfile.terminal.deploy_dialog import ask
from fabfile.terminal.command import command

@command()
def go(ctx, yes=False):
    ask("Go on?", yes=yes, refusal="nobody there")
    print("went on")
"""


@pytest.fixture
def answered(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs a command on a terminal, types keys once a question is asked; code and screen."""

    def run(*words: str, question: str, keys: bytes, folder: Path = tmp_path) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SWARMKEEP")}
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, *words],
            cwd=folder,
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        screen = b""
        try:
            while question.encode() not in screen:
                screen += os.read(ours, 4096)
            os.write(ours, keys)
            while data := _read(ours, again=keys if keys == CTRL_C else b""):
                screen += data
            return process.wait(60), screen.decode().replace("\r\n", "\n")
        finally:
            process.kill()
            process.wait()
            os.close(ours)

    return run


def _read(terminal: int, again: bytes) -> bytes:
    """What comes next, b"" after the last process has closed its side.

    `again` is typed each second that nothing comes: a Ctrl-C that arrives between Python's
    prompt and its read() is seen only after the next key, as any person at a terminal knows.
    """
    for _ in range(60 if again else 0):
        if select.select([terminal], [], [], 1.0)[0]:
            break
        os.write(terminal, again)
    try:
        return os.read(terminal, 4096)
    except OSError:  # EIO is Linux's way of saying that
        return b""


@pytest.mark.parametrize(
    ("keys", "code", "said"),
    [
        (b"y\n", 0, "went on"),
        (b"YES\n", 0, "went on"),
        (b"n\n", 1, "error: not confirmed: nothing was changed"),
        (b"yeah\n", 1, "error: not confirmed: nothing was changed"),
        (b"\n", 1, "error: not confirmed: nothing was changed"),
        (CTRL_D, 1, "\nerror: not confirmed: nothing was changed"),
        (CTRL_C, 130, "\ninterrupted"),
    ],
)
def test_only_a_clear_yes_is_one(tmp_path, answered, keys, code, said):
    (tmp_path / "tasks.py").write_text(TASKS)
    ended, screen = answered("go", question="Go on? [y/N] ", keys=keys)
    assert ended == code
    assert said in screen
    assert ("went on" in screen) == (code == 0)
    assert "Traceback" not in screen


def test_with_yes_nobody_is_asked_and_without_a_terminal_it_is_needed(tmp_path):
    (tmp_path / "tasks.py").write_text(TASKS)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "invoke", "go", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    assert (run("--yes").returncode, run("--yes").stdout) == (0, "went on\n")
    refused = run()
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: nobody there\n")
    assert "run again with --yes" in refused.stderr


@pytest.mark.parametrize("command", ["plan", "secrets.rotate", "secrets.view"])
@pytest.mark.parametrize(
    ("keys", "code", "said"),
    [
        (CTRL_D, 2, "error: nothing was entered"),
        (b"\n", 2, "error: the vault password is empty"),
        (b"guessed\n", 2, "error: "),
        (CTRL_C, 130, "interrupted"),
    ],
)
def test_the_vaults_password_is_asked_for(tmp_path, answered, command, keys, code, said):
    hosts = tmp_path / "hosts.yaml"
    hosts.write_text(
        "hosts: {m: {address: 192.0.2.1, swarm: manager, role: db}}\n"
        "s3_bucket_name: test-bucket\nvault: {file: vault.yml}\n"
    )
    (tmp_path / "vault.yml").write_text(encrypt(b"vault_postgres_password: x\n", "right"))
    ended, screen = answered(
        command, "--hosts", str(hosts), question="vault.yml: ", keys=keys, folder=ROOT
    )
    assert ended == code
    assert said in screen
    assert "guessed" not in screen
    assert "Traceback" not in screen


SHOWN = """
from fabfile.terminal.command import command

@command()
def plan(ctx):
    from fabfile.terminal import plan_table
    from fabfile.deploy.plan import Field, Plan, ServicePlan

    image = Field("image", "nocodb:1", "nocodb:2")
    changed = ServicePlan("appstack_nocodb", "update", (image,), restarts=True)
    plan = Plan("appstack", "app", (), "", (), (changed,))
    print(plan_table.to_text([plan], str, all_services=False))
    input("seen? ")

@command()
def bar(ctx):
    import select
    import sys

    from fabfile.terminal.progress_bar import progress_bar

    done = 0
    with progress_bar() as show:
        while not select.select([sys.stdin], [], [], 0.1)[0]:
            done += 1 << 17
            show("restoring", done, 1 << 30)
"""


def test_a_plan_is_coloured_on_a_terminal(tmp_path, answered):
    (tmp_path / "tasks.py").write_text(SHOWN)
    ended, screen = answered("plan", question="seen? ", keys=b"\n")
    assert ended == 0, screen
    assert "\x1b[33m~\x1b[0m" in screen
    assert "nocodb:1" in screen
    assert "nocodb:2" in screen


def test_a_restore_shows_bytes_and_rate_on_a_terminal(tmp_path, answered):
    (tmp_path / "tasks.py").write_text(SHOWN)
    ended, screen = answered("bar", question="/s", keys=b"\n")
    assert ended == 0, screen
    assert "restoring" in screen
    assert "/1.0 GiB" in screen
