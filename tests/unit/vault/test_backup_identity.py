"""Identities for encrypted backups: of files, of the vault."""

from __future__ import annotations

import subprocess

import pytest

from fabfile.base import age_encryption
from fabfile.base.errors import ConfigError
from fabfile.base.secret import Secret
from fabfile.vault.backup_identity import joined, of_file, of_text, of_vault
from fabfile.vault.reading import Secrets

PRIVATE, PUBLIC = age_encryption.generate()
FORMER, FORMER_PUBLIC = age_encryption.generate()


def keep(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


def ssh_key(folder, *options):
    path = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-N", "", *options, "-f", path], check=True)
    return path


def test_a_file_of_age_keygen(tmp_path):
    file = keep(tmp_path / "key", f"# created: today\n# public key: {PUBLIC}\n{PRIVATE}\n")
    found = of_file(file)
    assert found.publics == (PUBLIC,)
    assert found.reads([age_encryption.key_id(PUBLIC), "00000000"])
    assert not found.reads(["00000000"])
    assert PRIVATE not in repr(found)


def test_an_ssh_key_as_people_have_it(tmp_path):
    path = ssh_key(tmp_path, "-t", "ed25519", "-C", "ann@example.com")
    public = age_encryption.recipient(path.with_suffix(".pub").read_text())
    assert of_file(path).publics == (public,)
    stored = age_encryption.encrypt(b"x", [public])
    assert age_encryption.decrypt(stored, of_file(path).private.reveal()) == b"x"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("-t", "rsa", "-b", "2048"), "another kind"),
        (("-t", "ed25519", "-N", "a passphrase"), "has a passphrase"),
    ],
)
def test_ssh_keys_that_cannot_be_used(tmp_path, options, problem):
    with pytest.raises(ConfigError, match=problem):
        of_file(ssh_key(tmp_path, *options))


@pytest.mark.parametrize(
    "text",
    ["", "nothing", PRIVATE[:-1], "-----BEGIN PRIVATE KEY-----\nx\n"],
    ids=["empty", "words", "short", "other"],
)
def test_what_is_no_identity_is_never_quoted(text):
    with pytest.raises(ConfigError) as caught:
        of_text(text, "the file")
    assert caught.value.message.startswith("the file: ")
    assert "AGE-SECRET" not in caught.value.message


def test_a_file_that_others_may_read_or_that_is_not_there(tmp_path):
    file = keep(tmp_path / "key", PRIVATE)
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="others could read it"):
        of_file(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        of_file(tmp_path / "none")


def test_the_vaults_with_the_former_one(tmp_path):
    def vault(**entries):
        return Secrets(tmp_path, Secret("x"), {k: Secret(v) for k, v in entries.items()})

    assert of_vault(vault()) is None
    both = of_vault(vault(vault_backup_identity=PRIVATE, vault_backup_identity_former=FORMER))
    assert both
    assert both.publics == (PUBLIC, FORMER_PUBLIC)
    for public in both.publics:
        stored = age_encryption.encrypt(b"x", [public])
        assert age_encryption.decrypt(stored, both.private.reveal()) == b"x"
    with pytest.raises(ConfigError, match="vault_backup_identity"):
        of_vault(vault(vault_backup_identity="no key"))


def test_an_age_key_and_an_ssh_key_in_one_vault(tmp_path):
    """The program age takes either: it gets the one that fits."""
    path = ssh_key(tmp_path, "-t", "ed25519")
    ssh = age_encryption.recipient(path.with_suffix(".pub").read_text())
    text = path.read_text()
    both = joined([of_text(PRIVATE, "a"), of_text(text, "b")])
    for public in (PUBLIC, ssh):
        stored = age_encryption.encrypt(b"x", [public])
        assert age_encryption.decrypt(stored, both.private.reveal()) == b"x"
        fitting = both.fitting([age_encryption.key_id(public)])
        assert fitting.publics == (public,)
    assert both.fitting([]).publics == (PUBLIC,)
