"""Manifests, proofs and states as they lie in the bucket, read with distrust. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from fabfile.backup.sets import FORMAT, FilesState, Manifest, Proof, Recorded
from fabfile.base import json_text
from fabfile.config.project import Project

_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY_ID = re.compile(r"[0-9a-f]{8}")


def parse_files_state(text: str | bytes) -> FilesState:
    """Given a recorded state's text, return it. Raises ValueError that says what is wrong."""
    data = _object(text)
    try:
        if data["format"] != FORMAT:
            raise ValueError("is of no known format")
        finished = datetime.fromisoformat(_text(data["finished"]))
        if finished.tzinfo is None:
            raise ValueError(f"its time {data['finished']!r} has no zone")
        return FilesState(
            finished,
            _count(data["files"]),
            _count(data["bytes"]),
            _project(data),
            key_ids(data.get("recipients")),
        )
    except KeyError as error:
        raise ValueError(f"lacks {error}") from None


def parse_manifest(text: str | bytes, database: str) -> Manifest:
    """Given a manifest's text, return it. Raises ValueError that says what is wrong with it."""
    data = _object(text)
    if data.get("format") != FORMAT:
        raise ValueError(f"its manifest has format {data.get('format')!r}, known is {FORMAT}")
    if data.get("database") != database:
        raise ValueError(f"its manifest says that it is of database {data.get('database')!r}")
    try:
        rows = data["rows"]
        return Manifest(
            tool=_text(data["tool"]),
            database=database,
            started=_text(data["started"]),
            seconds=_count(data["seconds"]),
            parts={name: _recorded(part) for name, part in _mapping(data["parts"]).items()}
            | {"dump": _recorded(data["parts"]["dump"])},
            server_version=_text(data["server_version"]),
            major=_count(data["server_version_num"]) // 10000,
            size=_count(data["size"]),
            images={name: _text(image) for name, image in _mapping(data["images"]).items()},
            rows=None if rows is None else {t: _count(n) for t, n in _mapping(rows).items()},
            data=data,
            project=_project(data),
            cluster=_identifier(data.get("cluster")),
            expected_cluster=_identifier(data.get("expected_cluster")),
            recipients=key_ids(data.get("recipients")),
            sealed="details" in data,
            details=_base64(data.get("details", "")),
        )
    except KeyError as error:
        raise ValueError(f"its manifest lacks {error}") from None


def with_details(manifest: Manifest, text: bytes) -> Manifest:
    """Given a manifest and its details, decrypted, return all of it. Raises ValueError."""
    data = dict(manifest.data) | _object(text)
    del data["details"]
    return replace(parse_manifest(json.dumps(data), manifest.database), sealed=True)


def key_ids(value: object) -> tuple[str, ...]:
    """Given what a manifest says of its recipients, return their ids. Raises ValueError."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(_KEY_ID.fullmatch(_text(one)) for one in value):
        raise ValueError(f"its manifest has {value!r} where ids of keys belong")
    return tuple(value)


def _base64(value: object) -> bytes:
    try:
        return base64.b64decode(_text(value), validate=True)
    except binascii.Error:
        raise ValueError("its manifest has details that are no base64") from None


def parse_accepted(text: str | bytes) -> str:
    """Given the text of an acceptance, return the cluster that it accepts. Raises ValueError."""
    return _identifier(_object(text).get("cluster"))


def parse_proof(text: str | bytes) -> Proof:
    """Given an outcome's text, return it. Raises ValueError that says what is wrong with it."""
    data = _object(text)
    try:
        if data["format"] != FORMAT or data["outcome"] not in ("ok", "failed"):
            raise ValueError("is of no known format")
        seconds = data["seconds"]
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise ValueError(f"{seconds!r} is no number of seconds")
        return Proof(
            data["outcome"] == "ok",
            _text(data["finished"]),
            seconds,
            _text(data.get("reason", "")),
            _project(data),
        )
    except KeyError as error:
        raise ValueError(f"lacks {error}") from None


def outcome(of: str, reason: str, seconds: float) -> dict[str, Any]:
    """Given a set's time stamp, what failed ("" for nothing) and how long it took, return the
    outcome as it is written into the bucket.
    """
    return {
        "format": FORMAT,
        "set": of,
        "outcome": "failed" if reason else "ok",
        "reason": reason,
        "finished": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "seconds": round(seconds, 1),
    }


def _project(data: Mapping[str, Any]) -> Project:
    """Whose something is; nobody's where it does not say."""
    said = _mapping(data.get("project") or {})
    return Project(_text(said.get("name", "")), _text(said.get("id", "")))


def _identifier(value: object) -> str:
    text = _text(value or "")
    if text and not (text.isascii() and text.isdecimal()):
        raise ValueError(f"its manifest has {value!r} where a system identifier belongs")
    return text


def _object(text: str | bytes) -> dict[str, Any]:
    try:
        data = json_text.parse(text)
    except ValueError:
        raise ValueError("its manifest is no JSON") from None
    return _mapping(data)


def _recorded(value: object) -> Recorded:
    part = _mapping(value)
    sha256 = _text(part["sha256"])
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"its manifest names {sha256!r}, which is no SHA-256")
    return Recorded(_text(part["key"]), _count(part["bytes"]), sha256)


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"its manifest has {value!r} where a mapping belongs")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not (value.isprintable() or value == ""):
        raise ValueError(f"its manifest has {value!r} where a text belongs")
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"its manifest has {value!r} where a count belongs")
    return value
