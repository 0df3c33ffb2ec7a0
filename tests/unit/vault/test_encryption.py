"""The Ansible Vault format, proved against ansible-core itself in both directions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fabfile.base.errors import CONFIG, ConfigError
from fabfile.vault.encryption import MAGIC, decrypt, encrypt, is_vault, label_of

pytestmark = pytest.mark.thorough

PASSWORD = "correct horse"
CLEAR = b"vault_postgres_password: geheim-1234\n"
slow = settings(deadline=None, max_examples=25)  # every key derivation takes 8 ms


def ansible(password: bytes, label: str = "default"):
    from ansible.parsing.vault import VaultLib, VaultSecret

    return VaultLib([(label, VaultSecret(password))])


def ansible_vault(folder: Path, *arguments: str) -> str:
    """Run the real `ansible-vault`, its own files kept in `folder`; return its stdout."""
    environment = {**os.environ, "ANSIBLE_HOME": str(folder / "ansible"), "HOME": str(folder)}
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-vault", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


passwords = st.text(min_size=1).filter(lambda t: "\x00" not in t and t.isprintable())
labels = st.none() | st.from_regex(r"[A-Za-z0-9_.@-]{1,20}", fullmatch=True)


# Both directions


@slow
@given(st.binary(max_size=300), passwords, labels)
@example(b"", "p", None)
@example(b"x" * 16, "p", "lab")
@example(b"x" * 15, "p\u00e4\u00df", None)
def test_round_trip(clear: bytes, password: str, label: str | None) -> None:
    text = encrypt(clear, password, label)
    assert decrypt(text, password) == clear
    assert label_of(text) == label


@slow
@given(st.binary(max_size=300), passwords, labels)
def test_ansible_reads_ours(clear: bytes, password: str, label: str | None) -> None:
    vault = ansible(password.encode(), label or "default")
    assert vault.decrypt(encrypt(clear, password, label)) == clear


@slow
@given(st.binary(max_size=300), passwords, labels)
def test_we_read_ansibles(clear: bytes, password: str, label: str | None) -> None:
    from ansible.parsing.vault import VaultSecret

    secret = VaultSecret(password.encode())
    text = ansible(b"other").encrypt(b"#" + clear, secret, vault_id=label).decode()
    assert decrypt(text, password) == b"#" + clear
    # Ansible leaves its default label out.
    assert label_of(text) == (None if label == "default" else label)


def test_the_text_has_the_form_ansible_writes() -> None:
    ours = encrypt(CLEAR, PASSWORD, "lab")
    theirs = ansible(PASSWORD.encode()).encrypt(CLEAR, vault_id="lab").decode()
    assert [len(line) for line in ours.split("\n")] == [len(line) for line in theirs.split("\n")]
    assert ours.splitlines()[0] == theirs.splitlines()[0] == "$ANSIBLE_VAULT;1.2;AES256;lab"
    assert encrypt(CLEAR, PASSWORD).splitlines()[0] == "$ANSIBLE_VAULT;1.1;AES256"


def test_every_encryption_has_its_own_salt() -> None:
    assert encrypt(CLEAR, PASSWORD) != encrypt(CLEAR, PASSWORD)


def test_the_ansible_vault_command_views_ours(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    (tmp_path / "plain.yml").write_text(encrypt(b"a: plain\n", PASSWORD))
    (tmp_path / "labelled.yml").write_text(encrypt(b"a: labelled\n", PASSWORD, "lab"))
    shown = ansible_vault(
        tmp_path, "view", "--vault-id", "lab@password", "plain.yml", "labelled.yml"
    )
    assert shown.split("\n\n")[0].strip().split() == ["a:", "plain", "a:", "labelled"]


def test_we_read_what_the_ansible_vault_command_encrypts(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    (tmp_path / "vault.yml").write_bytes(CLEAR)
    ansible_vault(tmp_path, "encrypt", "--vault-id", "lab@password", "vault.yml")
    text = (tmp_path / "vault.yml").read_text()
    assert decrypt(text, PASSWORD) == CLEAR
    assert label_of(text) == "lab"


def test_a_password_that_is_no_utf8(tmp_path: Path) -> None:
    raw = b"caf\xe9"
    text = ansible(raw).encrypt(CLEAR).decode()
    assert decrypt(text, raw.decode("utf-8", "surrogateescape")) == CLEAR


@pytest.mark.parametrize(
    "reshape",
    [
        lambda t: t.replace("\n", "\r\n"),
        lambda t: t.rstrip("\n"),
        lambda t: t + "\n\n",
        lambda t: "\ufeff" + t,
        lambda t: "\n".join("    " + line for line in t.splitlines()),
        lambda t: t.splitlines()[0] + "\n" + "".join(t.splitlines()[1:]),
    ],
    ids=["crlf", "no last newline", "blank lines", "byte order mark", "indented", "one long line"],
)
def test_line_ends_and_indentation_do_not_matter(reshape) -> None:
    assert decrypt(reshape(encrypt(CLEAR, PASSWORD)), PASSWORD) == CLEAR


# Refusals


def refusal(text: str, password: str = PASSWORD) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        decrypt(text, password, name="vault.yml")
    error = caught.value
    assert error.exit_code == CONFIG
    shown = f"{error.message} {error.hint} {error.details} {error!r}"
    assert error.message.startswith("vault.yml: ")
    assert PASSWORD not in shown
    assert "geheim" not in shown
    return error


@pytest.mark.parametrize("text", ["", "\n", "a: b\n", "$ANSIBLE", "\x00", "x" + MAGIC])
def test_not_a_vault(text: str) -> None:
    assert not is_vault(text)
    assert "is not an Ansible Vault" in refusal(text).message


@pytest.mark.parametrize(
    "header", ["1.0;AES", "1.3;AES256", "1.1;AES", "", "1.2", "1.1;", "x" * 500]
)
def test_headers_of_other_versions(header: str) -> None:
    body = encrypt(CLEAR, PASSWORD).split("\n", 1)[1]
    error = refusal(f"{MAGIC};{header}\n{body}")
    assert "has a header this version cannot read" in error.message
    assert len(error.message) < 200


def test_a_wrong_password_says_that_it_may_be_tampering() -> None:
    message = refusal(encrypt(CLEAR, PASSWORD), "wrong").message
    assert "the password is wrong, or the content was changed or cut off" in message


@pytest.mark.parametrize("password", ["", "\ud900"])
def test_a_password_that_is_none(password: str) -> None:
    with pytest.raises(ConfigError, match="password"):
        decrypt(encrypt(CLEAR, PASSWORD), password)
    with pytest.raises(ConfigError, match="password"):
        encrypt(CLEAR, password)


@pytest.mark.parametrize("label", ["", " ", "a\nb", "ä", " a", "a ", "a\x00"])
def test_a_label_no_header_can_hold(label: str) -> None:
    with pytest.raises(ConfigError, match="want printable ASCII"):
        encrypt(CLEAR, PASSWORD, label)


def parts_of(text: str) -> tuple[str, list[bytes]]:
    header, *lines = text.splitlines()
    return header, bytes.fromhex("".join(lines)).split(b"\n")


def join(header: str, parts: list[bytes]) -> str:
    return header + "\n" + b"\n".join(parts).hex() + "\n"


@pytest.mark.parametrize("part", [0, 1, 2], ids=["salt", "hmac", "ciphertext"])
def test_one_changed_bit_in_any_part_is_noticed(part: int) -> None:
    header, parts = parts_of(encrypt(CLEAR, PASSWORD))
    raw = bytearray.fromhex(parts[part].decode())
    for position in (0, len(raw) // 2, len(raw) - 1):
        changed = bytearray(raw)
        changed[position] ^= 1
        text = join(header, [*parts[:part], changed.hex().encode(), *parts[part + 1 :]])
        assert "cannot be decrypted" in refusal(text).message


@pytest.mark.parametrize("part", [0, 1, 2], ids=["salt", "hmac", "ciphertext"])
@pytest.mark.parametrize(
    "content", [b"", b"0", b"zz", b"00"], ids=["empty", "odd", "no hex", "short"]
)
def test_a_part_that_is_none(part: int, content: bytes) -> None:
    header, parts = parts_of(encrypt(CLEAR, PASSWORD))
    parts[part] = content
    message = refusal(join(header, parts)).message
    if part == 0 and content == b"00":  # any salt has a key, only not the right one
        assert "cannot be decrypted" in message
    else:
        assert "is damaged" in message


@pytest.mark.parametrize("count", [1, 2, 4])
def test_another_number_of_parts(count: int) -> None:
    header, parts = parts_of(encrypt(CLEAR, PASSWORD))
    assert "is damaged" in refusal(join(header, (parts * 2)[:count])).message


def test_cut_off_anywhere() -> None:
    text = encrypt(CLEAR, PASSWORD)
    body = text.index("\n")
    for length in range(body + 1, len(text) - 2, 7):
        message = refusal(text[:length]).message
        assert "is damaged" in message or "cut off" in message


def test_wrong_padding_under_a_right_hmac() -> None:
    """Only somebody with the password can make this; it must still not become data."""
    import hmac as hmac_module

    from fabfile.vault import encryption

    header, parts = parts_of(encrypt(b"x" * 15, PASSWORD))
    _, hmac_key, _ = encryption._keys(PASSWORD, bytes.fromhex(parts[0].decode()))
    ciphertext = bytearray.fromhex(parts[2].decode())
    ciphertext[-1] ^= 0x55
    parts[1] = hmac_module.digest(hmac_key, bytes(ciphertext), "sha256").hex().encode()
    parts[2] = ciphertext.hex().encode()
    assert "its padding is wrong" in refusal(join(header, parts)).message


@settings(deadline=None)
@given(st.text(), st.sampled_from(["", f"{MAGIC};1.1;AES256\n", f"{MAGIC};1.2;AES256;x\n"]))
def test_any_text_is_refused_cleanly(text: str, header: str) -> None:
    refusal(header + text)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_any_damage_is_refused_cleanly(data: st.DataObject) -> None:
    text = KEPT
    start = data.draw(
        st.integers(min_value=len("$ANSIBLE_VAULT;1.1;AES256\n"), max_value=len(text) - 2)
    )
    # Without the 4, which could make of an inner "a" (0x61) an "A" (0x41): no damage at all.
    other = data.draw(st.text(alphabet="012356789abcdefg\n ", min_size=1, max_size=4))
    changed = text[:start] + other + text[start + len(other) :]
    if "".join(changed.split()) == "".join(text.split()):
        return
    refusal(changed)


KEPT = encrypt(CLEAR, PASSWORD)
