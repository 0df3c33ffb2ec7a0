"""Vault files -> secrets: where the password comes from, what entries may be, what never shows."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import hmac
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fabfile.base.errors import CONFIG, ConfigError
from fabfile.base.secret import Secret
from fabfile.config.inventory import Vault
from fabfile.vault import password
from fabfile.vault import reading as vaults
from fabfile.vault.encryption import encrypt
from tests.unit.vault.test_encryption import ansible_vault

PASSWORD = "correct horse"
VALUE = "geheim-1234"


@pytest.fixture(autouse=True)
def _no_password_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(password.PASSWORD, raising=False)
    monkeypatch.delenv(password.PASSWORD_FILE, raising=False)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    """Names of a vault file and a password file, the latter written."""
    password_file = tmp_path / "password"
    password_file.write_text(PASSWORD + "\n")
    return Vault(tmp_path / "vault.yml", password_file)


def write(vault: Vault, clear: str, *, label: str | None = None) -> Vault:
    """Write the vault as a whole-file vault."""
    vault.file.write_text(encrypt(clear.encode(), PASSWORD, label))
    return vault


def inline(value: str, label: str | None = None) -> str:
    """A `!vault` value as it stands in YAML."""
    lines = encrypt(value.encode(), PASSWORD, label).splitlines()
    return "!vault |\n" + "".join(f"          {line}\n" for line in lines)


def refusal(action: Callable[[], object]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        action()
    error = caught.value
    assert error.exit_code == CONFIG
    assert len(error.message.splitlines()) == 1
    for word in (PASSWORD, VALUE, "geheim"):
        assert word not in f"{error.message} {error.hint} {error.details} {error!r}"
    return error


# Secret


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret(VALUE)
    shown = [
        repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", f"{secret:s}", "%s" % secret,  # noqa: UP031
        "{}".format(secret), repr([secret]), repr({"a": secret}), str(Exception(secret)),  # noqa: UP032
    ]  # fmt: skip
    assert all("geheim" not in text for text in shown)
    assert secret.reveal() == VALUE


@pytest.mark.parametrize(
    "use",
    [
        lambda s: "a" + s,
        lambda s: s + "a",
        lambda s: "".join([s]),
        lambda s: s.encode(),
        json.dumps,
        bytes,
        open,
        vars,
        list,
        pickle.dumps,
    ],
)
def test_a_secret_cannot_be_written_by_accident(use: Callable[[Secret], object]) -> None:
    with pytest.raises((TypeError, AttributeError)) as caught:
        use(Secret(VALUE))
    assert "geheim" not in str(caught.value)


def test_secrets_compare_and_copy() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("\ud800")}) == 2
    secret = Secret("a")
    assert copy.copy(secret) is copy.deepcopy(secret) is secret


def test_dataclasses_hold_secrets_safely() -> None:
    @dataclasses.dataclass(frozen=True)
    class Holder:
        secret: Secret

    assert "geheim" not in repr(Holder(Secret(VALUE)))
    assert "geheim" not in repr(dataclasses.asdict(Holder(Secret(VALUE))))


# What is read


def test_a_vault_as_a_whole(vault: Vault) -> None:
    write(vault, f"vault_postgres_password: {VALUE}\nother: 'x'\n")
    found = vaults.load(vault)
    assert found.names() == ("vault_postgres_password", "other")
    assert found.require("vault_postgres_password") == Secret(VALUE)
    assert found.get("other") == Secret("x")
    assert found.get("absent") is None
    assert found.password == Secret(PASSWORD)
    assert "geheim" not in f"{found} {found!r} {vars(found)!r}"
    with pytest.raises(TypeError):
        pickle.dumps(found)


def test_inline_values_in_plain_yaml(vault: Vault) -> None:
    vault.file.write_text(
        f"# comment\nvault_postgres_password: {inline(VALUE)}pg_user: nocodb\n"
        f"vault_aws_access_key_id: {inline('AKIA', 'lab')}"
    )
    found = vaults.load(vault)
    assert found.require("vault_postgres_password") == Secret(VALUE)
    assert found.require("vault_aws_access_key_id") == Secret("AKIA")
    assert "pg_user" in found.names()


def test_inline_values_in_a_vault(vault: Vault) -> None:
    write(vault, f"vault_postgres_password: {inline(VALUE)}other: x\n")
    found = vaults.load(vault)
    assert found.require("vault_postgres_password") == Secret(VALUE)
    assert found.require("other") == Secret("x")


def test_inline_values_made_by_the_ansible_vault_command(vault: Vault) -> None:
    made = ansible_vault(
        vault.file.parent, "encrypt_string", "--vault-id", "lab@password",
        "--name", "vault_postgres_password", "--name", "vault_aws_access_key_id", VALUE, "AKIA",
    )  # fmt: skip
    assert "1.2;AES256;lab" in made
    vault.file.write_text(f"---\n{made}\n")
    found = vaults.load(vault)
    assert found.require("vault_postgres_password") == Secret(VALUE)
    assert found.require("vault_aws_access_key_id") == Secret("AKIA")


def test_ansibles_other_tags(vault: Vault) -> None:
    write(vault, f"a: !unsafe 'x{{{{y'\nb: !vault-encrypted |\n{inline('z').split('|')[1][1:]}")
    found = vaults.load(vault)
    assert found.require("a") == Secret("x{{y")
    assert found.require("b") == Secret("z")


def test_other_peoples_entries_are_left_alone_until_asked_for(vault: Vault) -> None:
    foreign = inline("x").replace("3", "4")
    write(vault, f"port: 5\nusers: [a]\n5: x\nbad: {foreign}vault_postgres_password: y\n")
    found = vaults.load(vault)
    assert found.names() == ("port", "users", "bad", "vault_postgres_password")
    assert found.require("vault_postgres_password") == Secret("y")
    for name in ("port", "users", "bad"):
        assert name in refusal(lambda name=name: found.get(name)).message


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), st.text(min_size=1), min_size=1)
)
def test_every_text_survives_yaml(entries: dict[str, str]) -> None:
    clear = yaml.safe_dump(entries)
    found = vaults.Secrets(Path("v"), Secret("p"), vaults.parse(clear, Path("v")))
    for name, value in entries.items():
        if "\x00" not in value and not any("\ud800" <= c <= "\udfff" for c in value):
            assert found.require(name).reveal() == value


# The name key


def test_the_name_key_is_an_entry_or_comes_from_the_password(vault: Vault) -> None:
    write(vault, "vault_name_key: 'abc'\n")
    assert vaults.load(vault).name_key() == b"abc"
    write(vault, "x: y\n")
    expected = hmac.new(PASSWORD.encode(), b"swarmkeep secret names", hashlib.sha256).digest()
    assert vaults.load(vault).name_key() == expected


# What is wrong with entries


@pytest.mark.parametrize(
    ("yaml_value", "problem"),
    [
        ("12345", "put it in quotes"),
        ("1.5", "put it in quotes"),
        ("true", "put it in quotes"),
        ("2026-01-01", "put it in quotes"),
        ("0x1F", "put it in quotes"),
        ("", "has no value"),
        ("~", "has no value"),
        ("''", "is empty"),
        ("[geheim]", "is not a text but a mapping or a list"),
        ("{geheim: 1}", "is not a text but a mapping or a list"),
        (r'"geheim\0"', "holds a NUL character"),
        (r'"geheim\ud800"', "holds a character that is no text"),
        (r'"geheim\n"', "has more than one line"),
        ("|\n  geheim\n  zwei\n", "has more than one line"),
    ],
)
def test_entries_of_ours_that_are_no_secrets(vault: Vault, yaml_value: str, problem: str) -> None:
    write(vault, f"vault_postgres_password: {yaml_value}\n")
    error = refusal(lambda: vaults.load(vault))
    assert error.message.startswith(f"{vault.file}: vault_postgres_password ")
    assert problem in error.message
    assert "inv secrets." in error.hint


@pytest.mark.parametrize("name", vaults.KNOWN)
def test_every_entry_of_ours_must_be_one_line(vault: Vault, name: str) -> None:
    write(vault, f'{name}: "two\\nlines"\n')
    assert name in refusal(lambda: vaults.load(vault)).message


def test_every_entry_of_ours_is_documented() -> None:
    table = (Path(__file__).parents[3] / "docs" / "secrets.md").read_text()
    assert [name for name in vaults.KNOWN if f"`{name}`" not in table] == []


def test_other_entries_may_have_several_lines(vault: Vault) -> None:
    write(vault, "certificate: |\n  a\n  b\n")
    assert vaults.load(vault).require("certificate") == Secret("a\nb\n")


def test_a_clear_value_in_a_plain_file_is_refused(vault: Vault) -> None:
    vault.file.write_text(f"vault_name_key: {inline('x')}vault_postgres_password: {VALUE}\n")
    error = refusal(lambda: vaults.load(vault))
    assert "vault_postgres_password is not encrypted" in error.message
    assert "ansible-vault encrypt" in error.hint


def test_a_missing_entry_names_itself_the_file_and_the_way_out(vault: Vault) -> None:
    write(vault, "vault_postgress_password: x\n")
    found = vaults.load(vault)
    error = refusal(lambda: found.require("vault_postgres_password"))
    assert error.message == f"{vault.file}: the entry vault_postgres_password is missing"
    assert "inv secrets.edit" in error.hint
    assert "vault_postgress_password" in error.hint


# What is wrong with the file


def test_a_missing_file(vault: Vault) -> None:
    error = refusal(lambda: vaults.load(vault))
    assert "no such vault file" in error.message
    assert "inv secrets.init" in error.hint


def test_a_directory(vault: Vault) -> None:
    vault.file.mkdir()
    assert "cannot be read" in refusal(lambda: vaults.load(vault)).message


@pytest.mark.parametrize("content", [f"vault_postgres_password: {VALUE}\n", "", "# nothing\n"])
def test_a_file_that_is_not_encrypted(vault: Vault, content: str) -> None:
    vault.file.write_text(content)
    error = refusal(lambda: vaults.load(vault))
    assert "is not encrypted" in error.message
    assert "ansible-vault encrypt" in error.hint


def test_a_file_that_is_no_text(vault: Vault) -> None:
    vault.file.write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in refusal(lambda: vaults.load(vault)).message


def test_content_that_is_no_text(vault: Vault) -> None:
    vault.file.write_text(encrypt(b"geheim: \xff", PASSWORD))
    assert "is not UTF-8 text" in refusal(lambda: vaults.load(vault)).message


@pytest.mark.parametrize(
    "clear",
    [
        "vault_postgres_password: @geheim", "vault_postgres_password: *geheim",
        "vault_postgres_password: !geheim", "vault_postgres_password: 'geheim",
        "geheim: 1\ngeheim: 2", "vault_postgres_password: a: geheim", "- geheim\nx: y",
        "vault_postgres_password: %geheim", "a: !!int geheim", "a: !vault [geheim]", "\x07geheim",
    ],
)  # fmt: skip
def test_content_that_is_no_yaml_is_not_quoted_in_the_message(vault: Vault, clear: str) -> None:
    write(vault, clear)
    error = refusal(lambda: vaults.load(vault))
    assert "decrypted content is not valid YAML" in error.message
    assert "quotes" in error.hint


@pytest.mark.parametrize(
    ("clear", "problem"),
    [("", "is empty"), ("# x", "is empty"), ("geheim", "is not a mapping"), ("- a", "not a map")],
)
def test_content_that_is_no_mapping(vault: Vault, clear: str, problem: str) -> None:
    write(vault, clear)
    assert problem in refusal(lambda: vaults.load(vault)).message


def test_a_tampered_file(vault: Vault) -> None:
    write(vault, "a: b\n")
    lines = vault.file.read_text().splitlines()
    lines[2] = lines[2][:-1] + ("0" if lines[2][-1] != "0" else "1")
    vault.file.write_text("\n".join(lines))
    message = refusal(lambda: vaults.load(vault)).message
    assert message.startswith(f"{vault.file}: ")


def test_a_tampered_inline_value_names_the_entry(vault: Vault) -> None:
    value = inline(VALUE)
    last = value.rstrip()[-1]
    vault.file.write_text(
        f"vault_postgres_password: {value.rstrip()[:-1]}{'1' if last != '1' else '2'}\n"
    )
    message = refusal(lambda: vaults.load(vault)).message
    assert message.startswith(f"{vault.file}: vault_postgres_password: ")


def test_a_wrong_password_whole_and_inline(vault: Vault) -> None:
    assert vault.password_file
    vault.password_file.write_text("wrong\n")
    write(vault, "a: b\n")
    assert "the password is wrong" in refusal(lambda: vaults.load(vault)).message
    vault.file.write_text(f"vault_postgres_password: {inline(VALUE)}")
    assert "the password is wrong" in refusal(lambda: vaults.load(vault)).message


# Where the password comes from


def never(question: str) -> str:
    raise AssertionError(f"asked: {question}")


def test_the_order_of_the_places(
    vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_text("from variable file")
    monkeypatch.setattr(password, "on_terminal", lambda: True)
    without = dataclasses.replace(vault, password_file=None)

    def found(of: Vault, ask: Callable[[str], str] = never) -> str:
        return password.read_password(of, ask).reveal()

    assert found(without, lambda _: "asked for") == "asked for"
    monkeypatch.setenv(password.PASSWORD_FILE, str(other))
    assert found(without) == "from variable file"
    monkeypatch.setenv(password.PASSWORD, "from variable\n")
    assert found(without) == "from variable"
    assert found(vault) == PASSWORD
    monkeypatch.setenv(password.PASSWORD, "")
    assert found(without) == "from variable file"


def test_nobody_is_asked_without_a_terminal(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    without = dataclasses.replace(vault, password_file=None)
    write(vault, "a: b\n")
    monkeypatch.setattr(password, "on_terminal", lambda: False)
    error = refusal(lambda: vaults.load(without, never))
    assert "no password" in error.message
    assert password.PASSWORD in error.hint
    monkeypatch.setattr(password, "on_terminal", lambda: True)
    assert "no password" in refusal(lambda: vaults.load(without)).message


def test_nobody_is_asked_for_a_file_that_is_no_vault(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(password, "on_terminal", lambda: True)
    without = dataclasses.replace(vault, password_file=None)
    vault.file.write_text("a: b\n")
    refusal(lambda: vaults.load(without, never))


def test_the_question_names_the_file(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(password, "on_terminal", lambda: True)
    without = dataclasses.replace(vault, password_file=None)
    write(vault, "a: b\n")

    def ask(question: str) -> str:
        asked.append(question)
        return PASSWORD

    vaults.load(without, ask)
    assert asked == [f"Vault password for {vault.file}: "]
    assert "empty" in refusal(lambda: vaults.load(without, lambda _: " ")).message


@pytest.mark.parametrize("content", ["p", "p\n", "p\r\n", "  p\n\n"])
def test_white_space_around_a_password_in_a_file_is_dropped_as_by_ansible(
    vault: Vault, content: str
) -> None:
    assert vault.password_file
    vault.password_file.write_bytes(content.encode())
    assert password.read_password(vault) == Secret("p")


def test_a_script_prints_the_password(vault: Vault) -> None:
    assert vault.password_file
    vault.password_file.write_text(f"#!/bin/sh\n[ $# = 0 ] && printf ' {PASSWORD}\\n'\n")
    vault.password_file.chmod(0o755)
    # Ansible keeps blanks here, unlike in a file.
    assert password.read_password(vault, label="lab") == Secret(" " + PASSWORD)


def test_a_client_script_is_told_which_vault(vault: Vault, tmp_path: Path) -> None:
    script = tmp_path / "keyring-client.sh"
    script.write_text('#!/bin/sh\necho "$*"\n')
    script.chmod(0o700)
    client = dataclasses.replace(vault, password_file=script)
    assert password.read_password(client, label="lab") == Secret("--vault-id lab")
    assert password.read_password(client) == Secret("--vault-id default")


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        (b"", 0o600, "the vault password is empty"),
        (b" \n", 0o600, "the vault password is empty"),
        (b"$ANSIBLE_VAULT;1.1;AES256\n00", 0o600, "is itself an encrypted vault"),
        (b"#!/bin/sh\necho geheim; exit 3\n", 0o700, "failed with exit code 3"),
        (b"#!/bin/sh\n", 0o700, "the vault password is empty"),
        (b"#!/no/such/interpreter\n", 0o700, "is executable but does not run"),
        (b"geheim", 0o700, "is executable but does not run"),
    ],
)
def test_password_files_that_hold_none(
    vault: Vault, content: bytes, mode: int, problem: str
) -> None:
    assert vault.password_file
    vault.password_file.write_bytes(content)
    vault.password_file.chmod(mode)
    error = refusal(lambda: password.read_password(vault))
    assert error.message.startswith(str(vault.password_file))
    assert problem in error.message


def test_a_password_file_that_is_missing_or_a_directory(vault: Vault, tmp_path: Path) -> None:
    absent = dataclasses.replace(vault, password_file=tmp_path / "absent")
    error = refusal(lambda: password.read_password(absent))
    assert "no such vault password file" in error.message
    assert "--generate" in error.hint
    directory = dataclasses.replace(vault, password_file=tmp_path)
    assert "vault password file" in refusal(lambda: password.read_password(directory)).message


def test_a_variable_naming_nobodys_home(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(password.PASSWORD_FILE, "~no-such-user-here/p")
    without = dataclasses.replace(vault, password_file=None)
    message = refusal(lambda: password.read_password(without)).message
    assert password.PASSWORD_FILE in message
