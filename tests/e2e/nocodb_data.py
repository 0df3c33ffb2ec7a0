"""What people have in NocoDB: two bases, links, an attachment, a token, a shared view."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from typing import Any

from lab.nocodb_api import NocoDB

TITLE = [{"title": "Title", "column_name": "title", "uidt": "SingleLineText"}]
FILES = [*TITLE, {"title": "File", "column_name": "file", "uidt": "Attachment"}]
CONTENT = b"what was uploaded\n" * 100


@dataclass(frozen=True)
class Data:
    """As it was put in; and as it is read back."""

    token: str
    view: str
    tables: tuple[str, ...]
    link: str
    rows: str
    linked: str
    shared: str
    file: bytes


def fill(server: NocoDB) -> Data:
    """Put it in; `server` is signed in."""
    base, other = server.base("Workshop"), server.base("Office")
    machines = server.table(base, "Machines", FILES)
    parts = server.table(base, "Parts", TITLE)
    desks = server.table(other, "Desks", TITLE)
    attachment = server.upload("manual.txt", CONTENT, "text/plain")
    server.insert(machines, [{"Title": "Lathe", "File": attachment}, {"Title": "Säge"}])
    server.insert(parts, [{"Title": "belt"}, {"Title": "blade"}])
    server.insert(desks, [{"Title": "big"}])
    column = {
        "title": "Needs",
        "uidt": "Links",
        "type": "hm",
        "parentId": machines,
        "childId": parts,
    }
    table = server.post(f"/api/v2/meta/tables/{machines}/columns", column)
    link = next(one["id"] for one in table["columns"] if one["title"] == "Needs")
    server.post(f"/api/v2/tables/{machines}/links/{link}/records/1", [{"Id": 1}, {"Id": 2}])
    token = server.post("/api/v1/tokens", {"description": "of a program"})["token"]
    views = server.get(f"/api/v2/meta/tables/{machines}/views")["list"]
    view = server.post(f"/api/v2/meta/views/{views[0]['id']}/share", {})["uuid"]
    return _read(server, token, view, (machines, parts, desks), link)


def read(server: NocoDB, login: tuple[str, str], data: Data) -> Data:
    """What there is now, for somebody with the same login, token and link."""
    server.sign_in(*login)
    return _read(server, data.token, data.view, data.tables, data.link)


def _read(server: NocoDB, token: str, view: str, tables: tuple[str, ...], link: str) -> Data:
    rows = [server.records(table) for table in tables]
    file = server.download(next(row for row in rows[0] if row.get("File"))["File"][0])
    linked = server.get(f"/api/v2/tables/{tables[0]}/links/{link}/records/1")["list"]
    by_token = _get(f"{server.url}/api/v2/tables/{tables[2]}/records", {"xc-token": token})
    shared = _get(f"{server.url}/api/v2/public/shared-view/{view}/rows", {})
    return Data(
        token, view, tables, link, _text([*rows, by_token["list"]]), _text(linked),
        _text(shared["list"]), file,
    )  # fmt: skip


def _get(url: str, headers: dict[str, str]) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers=headers)
    with opener.open(request, timeout=60) as answer:
        return json.load(answer)


def _text(value: Any) -> str:
    """Without the passing links to attachments, which every start of NocoDB makes anew."""

    def plain(item: Any) -> Any:
        if isinstance(item, dict):
            return {k: plain(v) for k, v in item.items() if not k.startswith("signed")}
        return [plain(one) for one in item] if isinstance(item, list) else item

    return json.dumps(plain(value), sort_keys=True)
