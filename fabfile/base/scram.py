"""What PostgreSQL keeps of a password. Pure; knows no database.

PostgreSQL takes a verifier where it takes a password: so the password itself is never in an
SQL command, where log_statement and pg_stat_activity would show it. The form is that of
pg_authid.rolpassword: https://www.postgresql.org/docs/current/catalog-pg-authid.html
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import stringprep
import unicodedata

ITERATIONS = 4096
"""PostgreSQL's own default (scram_iterations)."""
_SALT_BYTES = 16
_FORM = re.compile(r"SCRAM-SHA-256\$(\d{1,9}):([A-Za-z0-9+/=]+)\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+")

_PROHIBITED = (
    stringprep.in_table_a1, stringprep.in_table_c12, stringprep.in_table_c21_c22,
    stringprep.in_table_c3, stringprep.in_table_c4, stringprep.in_table_c5,
    stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8,
    stringprep.in_table_c9,
)  # fmt: skip


def verifier(password: str, *, salt: bytes = b"", iterations: int = ITERATIONS) -> str:
    """Given a password, return its verifier (RFC 5802, RFC 7677), with a new salt unless given."""
    salt = salt or secrets.token_bytes(_SALT_BYTES)
    salted = hashlib.pbkdf2_hmac("sha256", _prepared(password), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    words = [base64.b64encode(item).decode() for item in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{words[0]}${words[1]}:{words[2]}"


def accepts(kept: str, user: str, password: str) -> bool:
    """Given what PostgreSQL keeps for a user (SCRAM or MD5), say whether this is the password."""
    form = _FORM.fullmatch(kept)
    if form:
        salt, iterations = base64.b64decode(form[2]), int(form[1])
        mine = verifier(password, salt=salt, iterations=iterations)
    else:
        digest = hashlib.md5((password + user).encode(), usedforsecurity=False).hexdigest()
        mine = f"md5{digest}"
    return hmac.compare_digest(mine.encode(), kept.encode())


def _prepared(password: str) -> bytes:
    """A password as PostgreSQL hashes it: by SASLprep (RFC 4013), or as it is if that refuses."""
    if password.isascii():
        return password.encode()
    mapped = "".join(
        " " if stringprep.in_table_c12(c) else c
        for c in password
        if not stringprep.in_table_b1(c)
    )  # fmt: skip
    text = unicodedata.normalize("NFKC", mapped)
    allowed = text and not any(table(c) for c in text for table in _PROHIBITED)
    return (text if allowed and _one_direction(text) else password).encode()


def _one_direction(text: str) -> bool:
    """Whether a text is free of right-to-left characters, or consists of them (RFC 3454, 6)."""
    if not any(map(stringprep.in_table_d1, text)):
        return True
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends and not any(map(stringprep.in_table_d2, text))
