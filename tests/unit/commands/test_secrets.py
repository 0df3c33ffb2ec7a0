"""inv secrets.*: as a user runs them, on a command tree made of this namespace alone."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from invoke.collection import Collection
from invoke.program import Program

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.base.secret import Secret
from fabfile.commands import secrets as commands
from fabfile.vault import editing
from fabfile.vault import password as vault_password
from fabfile.vault.encryption import decrypt, encrypt, label_of
from tests.unit.vault.test_encryption import ansible, ansible_vault

PASSWORD = "correct horse"
VALUE = "geheim-1234"
CLEAR = f"# ours\nvault_postgres_password: '{VALUE}'  # the database\nother: geheim-x\n"

HOSTS = """\
hosts:
  m1: {address: 192.0.2.1, swarm: manager}
  db1: {address: 192.0.2.2, role: db}
s3_bucket_name: backups
vault: {file: vault.yml, password_file: password}
"""


@dataclass
class Result:
    code: int
    out: str
    err: str


@dataclass
class Place:
    """A folder with a hosts file, a password file and a vault."""

    folder: Path
    run: Callable[..., Result]

    @property
    def vault(self) -> Path:
        return self.folder / "vault.yml"

    @property
    def password(self) -> Path:
        return self.folder / "password"

    def write(self, clear: str = CLEAR, label: str | None = None) -> None:
        self.vault.write_text(encrypt(clear.encode(), PASSWORD, label))

    def clear(self) -> str:
        return decrypt(self.vault.read_text(), self.password.read_text().strip()).decode()

    def editor(self, script: str) -> None:
        """Make $EDITOR a shell script that gets the file as $1."""
        editor = self.folder / "my editor"
        editor.write_text(f"#!/bin/sh\nset -eu\n{script}\n")
        editor.chmod(0o755)
        os.environ["EDITOR"] = f"'{editor}'"

    def left_over(self) -> list[Path]:
        """What is in the folder for clear texts, and temporary files beside the vault."""
        return [*(self.folder / "memory").iterdir(), *self.folder.glob(".*.*")]


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Place]:
    for name in (vault_password.PASSWORD, vault_password.PASSWORD_FILE, "VISUAL", "EDITOR"):
        monkeypatch.setenv(name, "")  # so that what a test sets is undone
        monkeypatch.delenv(name)
    (tmp_path / "hosts.yaml").write_text(HOSTS)
    (tmp_path / "password").write_text(PASSWORD + "\n")
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(editing, "_MEMORY", tmp_path / "memory")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        program = Program(namespace=Collection(Collection.from_module(commands, name="secrets")))
        capfd.readouterr()
        code = 0
        try:
            program.run(["inv", *arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Result(code, out, err)

    place = Place(tmp_path, run)
    place.write()
    yield place
    assert place.left_over() == []


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes, tmp_path: Path) -> None:
    """Make stdin a file with this content."""
    path = tmp_path / "stdin"
    path.write_bytes(content)
    monkeypatch.setattr(sys, "stdin", path.open(encoding="utf-8"))


def answers(monkeypatch: pytest.MonkeyPatch, *texts: str) -> list[str]:
    """Make stdin a terminal on which these answers are given, in order; return the questions."""
    import getpass

    waiting = list(texts)
    asked: list[str] = []

    class Terminal:
        def isatty(self) -> bool:
            return True

    def answer(question: str = "") -> str:
        asked.append(question)
        return waiting.pop(0)

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(getpass, "getpass", answer)
    monkeypatch.setattr("builtins.input", answer)
    return asked


# init


def test_init_makes_a_vault_that_ansible_reads(place: Place) -> None:
    place.vault.unlink()
    result = place.run("secrets.init")
    assert result.code == 0, result.err
    assert "vault_postgres_password" in result.out
    assert "next: " in result.out
    assert stat.S_IMODE(place.vault.stat().st_mode) == 0o600
    shown = ansible_vault(place.folder, "view", "--vault-password-file", "password", "vault.yml")
    entries = dict(line.split(": ") for line in shown.strip().splitlines())
    assert set(entries) == {"vault_postgres_password", "vault_name_key"}
    assert all(len(value.strip('"')) >= 43 for value in entries.values())
    assert not any(value.strip('"') in result.out + result.err for value in entries.values())


def test_init_makes_other_secrets_every_time(place: Place) -> None:
    found = set()
    for _ in range(2):
        place.vault.unlink()
        assert place.run("secrets.init").code == 0
        found.add(place.clear())
    assert len(found) == 2


def test_init_never_overwrites(place: Place) -> None:
    before = place.vault.read_bytes()
    result = place.run("secrets.init")
    assert result.code == 2
    assert f"{place.vault}: exists already" in result.err
    assert place.vault.read_bytes() == before


def test_init_does_not_replace_a_link_to_nowhere(place: Place) -> None:
    place.vault.unlink()
    place.vault.symlink_to(place.folder / "absent")
    assert place.run("secrets.init").code == 2
    assert place.vault.is_symlink()


def test_init_generates_the_password_file(place: Place) -> None:
    place.vault.unlink()
    place.password.unlink()
    result = place.run("secrets.init", "--generate")
    assert result.code == 0, result.err
    assert stat.S_IMODE(place.password.stat().st_mode) == 0o600
    password = place.password.read_text().strip()
    assert len(password) >= 43
    assert password not in result.out + result.err
    assert "vault_postgres_password" in place.clear()
    assert place.run("secrets.view").out.splitlines() == [
        "vault_postgres_password",
        "vault_name_key",
    ]


def test_init_generates_where_the_variable_says(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.vault.unlink()
    (place.folder / "hosts.yaml").write_text(HOSTS.replace(", password_file: password", ""))
    monkeypatch.setenv(vault_password.PASSWORD_FILE, str(place.folder / "elsewhere"))
    assert place.run("secrets.init", "--generate").code == 0
    assert (place.folder / "elsewhere").exists()
    assert place.run("secrets.view").code == 0


@pytest.mark.parametrize(
    ("variable", "problem"),
    [
        (None, "--generate needs to know where"),
        (vault_password.PASSWORD, f"${vault_password.PASSWORD} is set"),
    ],
)
def test_init_generates_nothing_nobody_would_find(
    place: Place, monkeypatch: pytest.MonkeyPatch, variable: str | None, problem: str
) -> None:
    place.vault.unlink()
    (place.folder / "hosts.yaml").write_text(HOSTS.replace(", password_file: password", ""))
    if variable:
        monkeypatch.setenv(variable, "x")
    result = place.run("secrets.init", "--generate")
    assert result.code == 2
    assert problem in result.err
    assert not place.vault.exists()


def test_init_keeps_a_password_file_that_is_there(place: Place) -> None:
    place.vault.unlink()
    result = place.run("secrets.init", "--generate")
    assert result.code == 2
    assert f"{place.password}: exists already" in result.err
    assert place.password.read_text() == PASSWORD + "\n"
    assert not place.vault.exists()


def test_init_leaves_no_password_file_without_its_vault(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.vault.unlink()
    place.password.unlink()

    def fail(*_: object) -> None:
        raise SwarmkeepError("disk full")

    monkeypatch.setattr(editing, "create", fail)
    assert place.run("secrets.init", "--generate").code == 1
    assert not place.password.exists()


def test_init_asks_twice(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.vault.unlink()
    (place.folder / "hosts.yaml").write_text(HOSTS.replace(", password_file: password", ""))
    asked = answers(monkeypatch, PASSWORD, PASSWORD)
    result = place.run("secrets.init")
    assert result.code == 0, result.err
    assert len(asked) == 2
    assert "vault_postgres_password" in place.clear()


def test_init_with_two_different_answers_writes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.vault.unlink()
    (place.folder / "hosts.yaml").write_text(HOSTS.replace(", password_file: password", ""))
    answers(monkeypatch, PASSWORD, "geheim")
    result = place.run("secrets.init")
    assert result.code == 2
    assert "the two entries differ" in result.err
    assert not place.vault.exists()


def test_init_without_password_and_terminal(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.vault.unlink()
    place.password.unlink()
    assert "--generate" in place.run("secrets.init").err
    (place.folder / "hosts.yaml").write_text(HOSTS.replace(", password_file: password", ""))
    monkeypatch.setattr(vault_password, "on_terminal", lambda: False)
    result = place.run("secrets.init")
    assert result.code == 2
    assert "no password" in result.err


def test_init_where_nothing_can_be_written(place: Place) -> None:
    (place.folder / "hosts.yaml").write_text(HOSTS.replace("vault.yml", "no/such/folder/vault.yml"))
    result = place.run("secrets.init")
    assert result.code == 1
    assert "no/such/folder/vault.yml: cannot be written: No such file or directory" in result.err


def test_init_dry_writes_nothing(place: Place) -> None:
    place.vault.unlink()
    place.password.unlink()
    result = place.run("--dry", "secrets.init", "--generate")
    assert result.code == 0, result.err
    assert result.out.startswith(f"would write {place.vault}")
    assert not place.vault.exists()
    assert not place.password.exists()


# view


def test_view_shows_names_only(place: Place) -> None:
    result = place.run("secrets.view")
    assert result.code == 0, result.err
    assert result.out == "vault_postgres_password\nother\n"


def test_view_reveals_when_told_to(place: Place) -> None:
    place.write(CLEAR + "number: 5\nlines: |\n  a\n  b\n")
    result = place.run("secrets.view", "--reveal")
    assert result.code == 0
    assert result.out.splitlines() == [
        f"vault_postgres_password: {VALUE}",
        "other: geheim-x",
        f"number: ({place.vault}: number is not a text for YAML (a number, a date, true/false): "
        "put it in quotes)",
        "lines: 'a\\nb\\n'",
    ]


def test_view_of_one_entry_is_for_scripts(place: Place) -> None:
    assert place.run("secrets.view", "--name", "other").out == "other\n"
    assert place.run("secrets.view", "--name", "other", "--reveal").out == "geheim-x\n"
    result = place.run("secrets.view", "--name", "othr", "--reveal")
    assert result.code == 2
    assert "the entry othr is missing" in result.err


def test_view_takes_another_hosts_file(place: Place) -> None:
    elsewhere = place.folder / "elsewhere"
    elsewhere.mkdir()
    (place.folder / "hosts.yaml").rename(elsewhere / "h.yaml")
    (elsewhere / "password").write_text("other password")
    (elsewhere / "vault.yml").write_text(encrypt(b"a: b", "other password"))
    assert place.run("secrets.view", "--hosts", "elsewhere/h.yaml").out == "a\n"


def test_view_with_a_wrong_password_is_one_line(place: Place) -> None:
    place.password.write_text("wrong")
    result = place.run("secrets.view", "--reveal")
    assert (result.code, result.out) == (2, "")
    assert "the password is wrong" in result.err
    assert "geheim" not in result.err


# edit


@pytest.mark.parametrize("label", [None, "lab"])
def test_edit_keeps_header_mode_and_comments(place: Place, label: str | None) -> None:
    place.write(label=label)
    place.vault.chmod(0o640)
    place.editor('sed -i "s/geheim-1234/neu-5678/" "$1"; echo "added: \'x\'" >> "$1"')
    result = place.run("secrets.edit")
    assert result.code == 0, result.err
    assert result.out == (f"{place.vault}: saved; added added; changed vault_postgres_password\n")
    assert place.clear() == CLEAR.replace(VALUE, "neu-5678") + "added: 'x'\n"
    assert label_of(place.vault.read_text()) == label
    assert stat.S_IMODE(place.vault.stat().st_mode) == 0o640


def test_ansible_reads_what_was_edited(place: Place) -> None:
    place.write(label="lab")
    place.editor('echo "added: \'x\'" >> "$1"')
    assert place.run("secrets.edit").code == 0
    vault = ansible(PASSWORD.encode(), "lab")
    assert vault.decrypt(place.vault.read_text()).decode() == CLEAR + "added: 'x'\n"


def test_the_clear_text_is_ours_alone_while_edited(place: Place) -> None:
    place.editor('stat -c "%a" "$1" "$(dirname "$1")" > seen; echo "$1" >> seen; cp "$1" "$1~"')
    assert place.run("secrets.edit").code == 0
    file_mode, folder_mode, path = (place.folder / "seen").read_text().split()
    assert (file_mode, folder_mode) == ("600", "700")
    assert Path(path).parent.parent == place.folder / "memory"
    assert not Path(path).exists()


def test_edit_without_change_does_not_rewrite(place: Place) -> None:
    before = (place.vault.read_bytes(), place.vault.stat().st_mtime_ns, place.vault.stat().st_ino)
    place.editor("true")
    result = place.run("secrets.edit")
    assert (result.code, result.out) == (0, f"{place.vault}: unchanged\n")
    after = (place.vault.read_bytes(), place.vault.stat().st_mtime_ns, place.vault.stat().st_ino)
    assert after == before


def test_edit_of_a_comment_is_saved(place: Place) -> None:
    place.editor('echo "# note" >> "$1"')
    assert "saved; no entry differs" in place.run("secrets.edit").out
    assert place.clear() == CLEAR + "# note\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a: [geheim", "is not valid YAML (line 2, column 1)"),
        ("a: @geheim", "is not valid YAML"),
        ("geheim: 1\ngeheim: 2", "is not valid YAML"),
        ("", "is empty"),
        ("- geheim", "is not a mapping"),
        ("vault_postgres_password: 12345", "vault_postgres_password is not a text for YAML"),
        ("vault_postgres_password: ''", "vault_postgres_password is empty"),
    ],
)
def test_edit_to_something_bad_leaves_the_vault(place: Place, content: str, problem: str) -> None:
    before = place.vault.read_bytes()
    (place.folder / "new").write_text(content + "\n")
    place.editor('cat new > "$1"')
    result = place.run("secrets.edit")
    assert result.code == 2
    assert problem in result.err
    assert "geheim" not in result.err
    assert place.vault.read_bytes() == before


def test_edit_offers_the_editor_again_with_what_was_typed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answers(monkeypatch, "")
    place.editor('if grep -q oops "$1"; then sed -i "s/oops: .*/good: x/" "$1"; '
                 'else echo "oops: [" >> "$1"; fi')  # fmt: skip
    result = place.run("secrets.edit")
    assert result.code == 0, result.err
    assert len(asked) == 1
    assert "is not valid YAML" in result.err
    assert place.clear() == CLEAR + "good: x\n"


def test_edit_can_be_given_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = place.vault.read_bytes()
    answers(monkeypatch, "n")
    place.editor('echo "oops: [" >> "$1"')
    assert place.run("secrets.edit").code == 2
    assert place.vault.read_bytes() == before


def test_edit_repairs_a_vault_with_bad_content(place: Place) -> None:
    place.write("a: [\n")
    assert place.run("secrets.view").code == 2
    place.editor('echo "a: x" > "$1"')
    assert place.run("secrets.edit").code == 0
    assert place.run("secrets.view").out == "a\n"


@pytest.mark.parametrize(
    ("script", "code", "problem"),
    [
        ("echo x >> \"$1\"; exit 3", 1, "ended with exit code 3; the vault is unchanged"),
        ("rm \"$1\"", 2, "the edited text is gone"),
        ("printf 'a: \\377' > \"$1\"", 2, "is not UTF-8 text"),
    ],
)  # fmt: skip
def test_editors_that_fail(place: Place, script: str, code: int, problem: str) -> None:
    before = place.vault.read_bytes()
    place.editor(script)
    result = place.run("secrets.edit")
    assert result.code == code
    assert problem in result.err
    assert place.vault.read_bytes() == before


@pytest.mark.parametrize(
    ("editor", "problem"),
    [("/no/such/editor -x", "does not run"), ("'", "$VISUAL or $EDITOR"), ("", "no terminal")],
)
def test_editors_that_are_none(
    place: Place, monkeypatch: pytest.MonkeyPatch, editor: str, problem: str
) -> None:
    monkeypatch.setenv("EDITOR", editor)
    feed(monkeypatch, b"", place.folder)
    result = place.run("secrets.edit")
    assert result.code == 2
    assert problem in result.err


def test_visual_comes_before_editor(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.editor("exit 3")
    monkeypatch.setenv("VISUAL", "true")
    assert place.run("secrets.edit").code == 0


def test_ctrl_c_belongs_to_the_editor(place: Place) -> None:
    """The terminal sends it to both; the editor of choice usually goes on."""
    before = signal.getsignal(signal.SIGINT)
    place.editor('kill -INT $PPID; echo "a: x" >> "$1"')
    result = place.run("secrets.edit")
    assert result.code == 0, result.err
    assert place.clear() == CLEAR + "a: x\n"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("name", ["TERM", "HUP"])
def test_the_clear_text_goes_when_we_are_ended(place: Place, name: str) -> None:
    before = place.vault.read_bytes()
    place.editor(f'echo "a: x" >> "$1"; kill -{name} $PPID; exec sleep 60')
    result = place.run("secrets.edit")
    assert result.code == 130
    assert place.vault.read_bytes() == before  # and the fixture looks for what is left over


def test_ctrl_c_at_the_question_removes_the_clear_text(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch)

    def interrupt(_: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    place.editor('echo "oops: [" >> "$1"')
    assert place.run("secrets.edit").code == 130


def test_a_change_by_somebody_else_is_not_overwritten(place: Place) -> None:
    (place.folder / "theirs").write_text(encrypt(b"theirs: x\n", PASSWORD))
    place.editor('echo "a: x" >> "$1"; cp theirs vault.yml')
    result = place.run("secrets.edit")
    assert result.code == 2
    assert "was changed by somebody else" in result.err
    assert place.clear() == "theirs: x\n"


def test_a_failing_disk_leaves_the_vault(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = place.vault.read_bytes()
    place.editor('echo "a: x" >> "$1"')

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = place.run("secrets.edit")
    assert result.code == 1
    assert "cannot be written: No space left on device" in result.err
    assert place.vault.read_bytes() == before


def test_a_vault_behind_a_link_stays_behind_it(place: Place) -> None:
    real = place.folder / "real.yml"
    place.vault.rename(real)
    place.vault.symlink_to(real)
    place.editor('echo "a: x" >> "$1"')
    assert place.run("secrets.edit").code == 0
    assert place.vault.is_symlink()
    assert place.clear() == CLEAR + "a: x\n"


@pytest.mark.parametrize("command", [["secrets.edit"], ["secrets.set", "a"]])
def test_a_file_with_inline_values_is_refused_with_the_way(
    place: Place, command: list[str]
) -> None:
    text = encrypt(b"x", PASSWORD).replace("\n", "\n  ")
    place.vault.write_text(f"a: !vault |\n  {text}\n")
    result = place.run(*command)
    assert result.code == 2
    assert "is not encrypted as a whole" in result.err
    assert "ansible-vault encrypt_string" in result.err


def test_edit_dry(place: Place) -> None:
    place.editor('echo "a: x" >> "$1"')
    result = place.run("--dry", "secrets.edit")
    assert (result.code, result.out) == (0, f"would edit {place.vault}\n")
    assert place.clear() == CLEAR


def test_the_password_is_asked_for_on_a_terminal(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.folder / "hosts.yaml").write_text(HOSTS.replace(", password_file: password", ""))
    asked = answers(monkeypatch, PASSWORD)
    place.editor("true")
    assert place.run("secrets.edit").code == 0
    assert len(asked) == 1


# set


@pytest.mark.parametrize("label", [None, "lab"])
def test_set_changes_one_value_in_place(
    place: Place, monkeypatch: pytest.MonkeyPatch, label: str | None
) -> None:
    place.write(label=label)
    feed(monkeypatch, b'it\'s "new": #1\n', place.folder)
    result = place.run("secrets.set", "vault_postgres_password")
    assert result.code == 0, result.err
    assert result.out == f"{place.vault}: saved; changed vault_postgres_password\n"
    assert place.clear() == CLEAR.replace(f"'{VALUE}'", '"it\'s \\"new\\": #1"')
    assert label_of(place.vault.read_text()) == label


def test_set_adds_an_entry(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write(CLEAR.rstrip("\n"))
    feed(monkeypatch, b"AKIA", place.folder)
    result = place.run("secrets.set", "vault_aws_access_key_id")
    assert result.out == f"{place.vault}: saved; added vault_aws_access_key_id\n"
    assert place.clear() == CLEAR + 'vault_aws_access_key_id: "AKIA"\n'


def test_set_to_the_same_value_is_no_change_but_for_quotes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write('a: "x"\n')
    before = place.vault.read_bytes()
    feed(monkeypatch, b"x\r\n", place.folder)
    assert place.run("secrets.set", "a").out == f"{place.vault}: unchanged\n"
    assert place.vault.read_bytes() == before


def test_set_is_also_for_a_person(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, "typed", "typed")
    assert place.run("secrets.set", "other").code == 0
    assert 'other: "typed"' in place.clear()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"geheim\x00", "holds a NUL character"),
        (b"geheim\nzwei\n", "has more than one line"),
        (b"geheim\xff", "is not UTF-8 text"),
    ],
)
def test_set_refuses_what_is_no_value(
    place: Place, monkeypatch: pytest.MonkeyPatch, content: bytes, problem: str
) -> None:
    before = place.vault.read_bytes()
    feed(monkeypatch, content, place.folder)
    result = place.run("secrets.set", "vault_postgres_password")
    assert result.code == 2
    assert problem in result.err
    assert "geheim" not in result.err + result.out
    assert place.vault.read_bytes() == before


@pytest.mark.parametrize("name", ["a b", "1a", "a:", "$(id)", "a\nb", "x" * 200])
def test_set_refuses_what_is_no_name(
    place: Place, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    feed(monkeypatch, b"x", place.folder)
    result = place.run("secrets.set", name)
    assert result.code == 2
    assert "is not a name for an entry" in result.err


@pytest.mark.parametrize(
    "clear", ["{a: x, b: y}\n", "a: &x geheim\nb: *x\n", "b: &x geheim\na: *x\n", "b: x\n...\n"]
)
def test_set_refuses_a_form_it_cannot_change_safely(
    place: Place, monkeypatch: pytest.MonkeyPatch, clear: str
) -> None:
    place.write(clear)
    before = place.vault.read_bytes()
    feed(monkeypatch, b"new", place.folder)
    name = "c" if "{" in clear else "a"
    result = place.run("secrets.set", name)
    assert result.code == 2
    assert "the form of the text does not allow it" in result.err
    assert "geheim" not in result.err
    assert place.vault.read_bytes() == before


def test_set_dry(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, b"x", place.folder)
    result = place.run("--dry", "secrets.set", "other")
    assert (result.code, result.out) == (0, f"would set other in {place.vault}\n")
    assert place.clear() == CLEAR


BLOCKS = [
    "'x'",
    "x",
    '"x\\ny"',
    "|\n  x\n  y",
    ">-\n  x\n\n  y\n",
    "",
    "!unsafe x",
    "x  # c",
    "[1,\n  2]",
]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(
    st.sampled_from(BLOCKS),
    st.sampled_from(BLOCKS),
    st.sampled_from(["first", "second", "third"]),
    st.text(min_size=1).filter(lambda t: "\x00" not in t),
)
def test_set_changes_nothing_else(
    tmp_path: Path, one: str, two: str, name: str, value: str
) -> None:
    clear = f"# start\nfirst: {one}\nsecond: {two}\n# end\n"
    document = editing.Document(tmp_path / "v", "", Secret(clear), Secret("p"), None)
    try:
        changed = editing.set_entry(document, name, value)
    except ConfigError as error:
        refused = error
    else:
        assert document.entries(changed).require(name).reveal() == value
        assert changed.startswith("# start\n")
        assert "# end\n" in changed
        return
    assert "no text" in refused.message  # half a surrogate pair, the only thing that is refused


# The commands as a process: nothing secret in the argument list, stdin is a real pipe


def test_set_and_view_as_a_user_types_them(place: Place) -> None:
    root = Path(__file__).parents[3]
    script = (
        "import sys; from invoke.program import Program; from invoke.collection import Collection;"
        "from fabfile.commands import secrets;"
        "Program(namespace=Collection(Collection.from_module(secrets, name='secrets')))"
        ".run(['inv', *sys.argv[1:]])"
    )

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, *arguments],
            input=stdin, capture_output=True, text=True, check=False, start_new_session=True,
            cwd=place.folder, env={**os.environ, "PYTHONPATH": str(root)},
        )  # fmt: skip

    done = run("secrets.set", "vault_name_key", stdin="k-1\n")
    assert (done.returncode, done.stderr) == (0, "")
    done = run("secrets.view", "--name", "vault_name_key", "--reveal")
    assert (done.stdout, done.stderr) == ("k-1\n", "")
    (place.folder / "hosts.yaml").write_text(HOSTS.replace(", password_file: password", ""))
    done = run("secrets.view")
    assert done.returncode == 2
    assert "there is no password" in done.stderr
