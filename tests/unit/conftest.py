"""An S3 server for the tests of a module, empty for each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.s3_server import S3Server, own_credentials


@pytest.fixture(scope="module")
def module_server() -> Iterator[S3Server]:
    with S3Server().running() as server:
        yield server


@pytest.fixture
def server(module_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    own_credentials(monkeypatch)
    module_server.fault = None
    module_server.empty()
    return module_server
