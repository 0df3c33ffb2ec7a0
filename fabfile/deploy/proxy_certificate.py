"""The proxy's certificate as the vault has it: is it one, and does it fit key and domain."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

from fabfile.base import certificates
from fabfile.base.errors import ConfigError

_ENTER = (
    "put both in again: base64 -w 0 fullchain.pem | inv secrets.set vault_proxy_certificate; "
    "base64 -w 0 privkey.pem | inv secrets.set vault_proxy_key"
)


def decoded(entry: str, name: str, where: str) -> str:
    """Given an entry of the vault, PEM in base64 on one line, return the PEM.

    Raises ConfigError for what is no base64; `name` and `where` name entry and vault.
    """
    try:
        return base64.b64decode(entry, validate=True).decode()
    except ValueError:
        raise _refused(f"{where}: {name} is no PEM file in base64") from None


def check(chain: str, key: str, domain: str, where: str) -> None:
    """Raise ConfigError unless a certificate (PEM, with its chain) is valid now for `domain` and
    belongs to `key` (PEM, without a password). `where` names the vault.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        certificate = x509.load_pem_x509_certificates(chain.encode())[0]
    except (ValueError, IndexError):
        raise _refused(f"{where}: vault_proxy_certificate is no certificate in PEM") from None
    try:
        private = serialization.load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError):
        raise _refused(f"{where}: vault_proxy_key is no key in PEM without a password") from None
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise _refused(f"{where}: vault_proxy_key is not the key of vault_proxy_certificate")
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if begin > datetime.now(UTC):
        raise _refused(f"{where}: vault_proxy_certificate is not valid before {begin:%Y-%m-%d}")
    if end < datetime.now(UTC):
        raise _refused(f"{where}: vault_proxy_certificate has expired on {end:%Y-%m-%d}")
    if not certificates.is_for(certificate, domain):
        said = ", ".join(sorted(certificates.names(certificate))) or "no name"
        raise _refused(f"{where}: vault_proxy_certificate is for {said}, not for {domain}")


def _refused(message: str) -> ConfigError:
    return ConfigError(message, hint=_ENTER)
