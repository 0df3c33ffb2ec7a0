"""NocoDB's REST API, as much of it as filling a base and reading it back takes."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
import uuid
from typing import Any

from fabfile.base.errors import SwarmkeepError, UnreachableError

TIMEOUT = 60.0  # seconds

# The lab's addresses are this machine's own: no proxy of the environment leads there.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ApiError(SwarmkeepError):
    """NocoDB refused a request. `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NocoDB:
    """One NocoDB server, at a URL such as http://10.213.0.13:8080."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._token = ""

    @property
    def token(self) -> str:
        """What a user's requests have in the header xc-auth, once signed in."""
        return self._token

    def sign_up(self, email: str, password: str) -> None:
        """Make a user and be that user; the first one becomes super admin."""
        self._enter("signup", email, password)

    def sign_in(self, email: str, password: str) -> None:
        """Be a user that exists. ApiError 400 if there is none or the password is wrong."""
        self._enter("signin", email, password)

    def base(self, title: str) -> str:
        """The id of the base with this title; it is made if there is none."""
        return self._named(self.get("/api/v2/meta/bases/"), title) or str(
            self.post("/api/v2/meta/bases/", {"title": title})["id"]
        )

    def table(self, base: str, title: str, columns: list[dict[str, str]]) -> str:
        """The id of a base's table with this title; it is made with these columns if need be."""
        path = f"/api/v2/meta/bases/{base}/tables"
        body = {"title": title, "table_name": title, "columns": columns}
        return self._named(self.get(path), title) or str(self.post(path, body)["id"])

    def records(self, table: str) -> list[dict[str, Any]]:
        """Every row of a table, in the order of its id."""
        rows: list[dict[str, Any]] = []
        while True:
            query = urllib.parse.urlencode({"limit": 100, "offset": len(rows), "sort": "Id"})
            page = self.get(f"/api/v2/tables/{table}/records?{query}")
            rows += page["list"]
            if page["pageInfo"]["isLastPage"] or not page["list"]:
                return rows

    def insert(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Add rows to a table."""
        self.post(f"/api/v2/tables/{table}/records", rows)

    def upload(self, name: str, content: bytes, kind: str) -> list[dict[str, Any]]:
        """Upload a file; the answer is the value of an attachment cell."""
        boundary = uuid.uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            f"Content-Type: {kind}\r\n\r\n"
        )
        body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        answer: list[dict[str, Any]] = self._call(
            "POST", "/api/v2/storage/upload", body, f"multipart/form-data; boundary={boundary}"
        )
        return answer

    def download(self, attachment: dict[str, Any]) -> bytes:
        """Read an uploaded file back, given its entry in an attachment cell."""
        path = attachment.get("signedPath") or attachment["path"]
        with self._open(self._request("GET", f"/{path}")) as response:
            content: bytes = response.read()
            return content

    def get(self, path: str) -> Any:
        """GET a path, return its JSON."""
        return self._call("GET", path)

    def post(self, path: str, value: Any) -> Any:
        """POST a value as JSON, return the JSON of the answer."""
        return self._call("POST", path, json.dumps(value).encode())

    def _enter(self, way: str, email: str, password: str) -> None:
        answer = self.post(f"/api/v1/auth/user/{way}", {"email": email, "password": password})
        self._token = answer["token"]

    def _named(self, answer: dict[str, Any], title: str) -> str | None:
        return next((item["id"] for item in answer["list"] if item["title"] == title), None)

    def _call(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> Any:
        request = self._request(method, path, body)
        request.add_header("Content-Type", kind)
        if self._token:
            request.add_header("xc-auth", self._token)
        with self._open(request) as response:
            return json.load(response)

    def _request(self, method: str, path: str, body: bytes | None = None) -> urllib.request.Request:
        # The URL is the lab's own, made from its address, never somebody's input.
        return urllib.request.Request(self.url + path, data=body, method=method)  # noqa: S310

    def _open(self, request: urllib.request.Request) -> Any:
        what = f"{request.get_method()} {request.selector.partition('?')[0]}"
        try:
            return _OPENER.open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            text = error.read(500).decode("utf-8", "replace")
            raise ApiError(f"NocoDB: {what}: {error.code}: {text}", error.code) from None
        except OSError as error:
            raise UnreachableError(
                f"NocoDB at {self.url} does not answer: {error}", hint="inv status; inv deploy-app"
            ) from None
