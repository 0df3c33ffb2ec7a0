"""A real HTTP server on loopback that speaks S3 (moto's implementation), with faults on demand."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
import yaml
from botocore.config import Config
from botocore.loaders import create_loader
from moto.core.request import Request
from moto.s3.models import s3_backends
from moto.s3.responses import S3Response
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from fabfile.backup.object_keys import EPOCH, Keys, moment

BUCKET = "test-bucket"
DATABASE = "nocodb"
ACCOUNT = "123456789012"
LOADER = create_loader()
"""botocore's descriptions of S3, read once for all clients."""
Fault = Callable[[Request], Response | None]


def manifest_of(database: str, second: int, contents: dict[str, bytes]) -> dict[str, Any]:
    """A manifest as backup-pg.sh writes it."""
    return {
        "format": 1,
        "tool": "backup-pg.sh 0.2.0",
        "database": database,
        "started": f"{moment(second):%Y-%m-%dT%H:%M:%SZ}",
        "seconds": 16,
        "parts": {
            part: {
                "key": Keys(database).part(second, part),
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            for part, content in contents.items()
        },
        "server_version": "15.14 (Debian 15.14-0+deb12u1)",
        "server_version_num": 150014,
        "pg_dump_version": "pg_dump (PostgreSQL) 15.14",
        "encoding": "UTF8",
        "collate": "C.UTF-8",
        "ctype": "C.UTF-8",
        "locale_provider": "c",
        "icu_locale": None,
        "owner": "nocodb",
        "size": 8_000_000,
        "extensions": {"plpgsql": "1.0"},
        "images": {"dbstack_root_db": "postgres:15-bookworm"},
        "rows": {"public.nc_users_v2": 1, "p1.notes": 3},
    }


class S3Server:
    """The server. `fault` may answer before it does.

    `requests` holds "METHOD /path?query" of each request that Swarmkeep has sent.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.fault: Fault | None = None
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def put(
        self,
        when: datetime,
        body: bytes = b"x" * 20_000,
        *,
        database: str = DATABASE,
        without: tuple[str, ...] = (),
        **manifest: Any,
    ) -> str:
        """Put a set there as backup-pg.sh uploads it, and return its manifest's key.

        `without` leaves parts out, `manifest` changes what the manifest says.
        """
        second = int((when - EPOCH).total_seconds())
        contents = {"dump": body, "globals": gzip.compress(b"CREATE ROLE nocodb;", 1, mtime=0)}
        said = manifest_of(database, second, contents) | manifest
        contents["manifest"] = json.dumps(said).encode()
        for part, content in contents.items():
            if part not in without:
                self.put_object(Keys(database).part(second, part), content)
        return Keys(database).of(second)

    def put_object(self, key: str, content: bytes) -> None:
        """Put one object there."""
        # Not through HTTP: what is tested is reading, and this is ten times as fast.
        s3_backends[ACCOUNT]["aws"].put_object(BUCKET, key, content)

    def get_object(self, key: str) -> bytes:
        """The content of one object."""
        found: bytes = s3_backends[ACCOUNT]["aws"].get_object(BUCKET, key).value
        return found

    def put_garbage(self, *keys: str) -> None:
        for key in keys:
            self.client.put_object(Bucket=BUCKET, Key=key, Body=b"")

    def empty(self) -> None:
        """Delete every object and forget the requests."""
        for bucket in s3_backends[ACCOUNT]["aws"].buckets.values():
            bucket.keys.clear()
        self.requests.clear()

    @contextmanager
    def running(self) -> Iterator[S3Server]:
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            self.client = boto3.client(
                "s3",
                endpoint_url=self.url,
                region_name="us-east-1",
                aws_access_key_id="test",
                aws_secret_access_key="test",
                config=Config(s3={"addressing_style": "path"}),
            )
            self.client.create_bucket(Bucket=BUCKET)
            self.requests.clear()
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(10)
            for account in s3_backends.values():
                account.reset()

    def _answer(self, environ, start_response):
        request = Request(environ)
        response = None
        if "swarmkeep" in request.headers["User-Agent"]:
            self.requests.append(f"{request.method} {request.full_path.rstrip('?')}")
            response = self.fault(request) if self.fault else None
        if response is None and request.method == "GET" and "retention" in request.args:
            response = retention_of(*request.path.strip("/").split("/", 1))
        if response is None:
            # /bucket or /bucket/key: addressing by path.
            in_bucket = request.path.strip("/").count("/") == 0
            dispatch = S3Response.bucket_dispatch if in_bucket else S3Response.key_dispatch
            status, headers, body = dispatch(request, request.raw_url, dict(request.headers))
            response = Response(body, status=status, headers=headers)
            if request.method == "HEAD" and "content-length" in headers:
                response.headers["Content-Length"] = headers["content-length"]
        return response(environ, start_response)


def retention_of(bucket: str, key: str) -> Response:
    """GetObjectRetention, which moto lacks."""
    found = s3_backends[ACCOUNT]["aws"].get_object(bucket, key)
    if not found.lock_mode:
        body = "<Error><Code>NoSuchObjectLockConfiguration</Code><Message>none</Message></Error>"
        return Response(body, status=404, mimetype="application/xml")
    until = found.lock_until
    body = f"<Retention><Mode>{found.lock_mode}</Mode><RetainUntilDate>{until}</RetainUntilDate>"
    return Response(f"{body}</Retention>", mimetype="application/xml")


def refuse(status: int, code: str, message: str = "no", *, method: str = "GET") -> Fault:
    """A fault that refuses requests of one method with an S3 error document."""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"

    def answer(request: Request) -> Response | None:
        if request.method != method:
            return None
        return Response("" if method == "HEAD" else body, status=status, mimetype="application/xml")

    return answer


def own_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process credentials of its own, whatever the machine has."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret-that-must-not-show")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("botocore.session.create_loader", lambda _path: LOADER)
    # Its pauses between retries, not the retries.
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _seconds: None))


def write_hosts(
    folder: Path,
    endpoint: str,
    *,
    databases: Sequence[str] = (DATABASE,),
    app: bool = False,
    **backup: object,
) -> Path:
    """Write a hosts file whose bucket is at an endpoint ("": AWS); return its path."""
    data: dict[str, Any] = {
        "hosts": {"db1": {"address": "127.0.0.1", "port": 1, "swarm": "manager", "role": "db"}},
        "ssh": {"known_hosts": "known_hosts", "connect_timeout": "2s"},
        "s3_bucket_name": BUCKET,
        "pg_db": list(databases),
        "backup": {**({"endpoint_url": endpoint} if endpoint else {}), **backup},
    }
    if app:
        data["hosts"]["app1"] = {"address": "127.0.0.1", "port": 2, "role": "app"}
    path = folder / "hosts.yaml"
    path.write_text(yaml.safe_dump(data))
    return path
