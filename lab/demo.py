"""What `make demo` shows: real data put into NocoDB through its API, and where to look next.

Usage: python -m lab.demo fill|summary [--name NAME]
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from typing import Any

from fabfile.base.errors import SwarmkeepError
from lab import files
from lab.model import DEFAULT_NAME, Lab
from lab.nocodb_api import ApiError, NocoDB

EMAIL = "admin@swarmkeep.example.com"
BASE = "Workshop"
TABLE = "Machines"
COLUMNS = [
    {"title": "Name", "column_name": "name", "uidt": "SingleLineText"},
    {"title": "Purpose", "column_name": "purpose", "uidt": "LongText"},
    {"title": "Bought", "column_name": "bought", "uidt": "Number"},
    {"title": "Manual", "column_name": "manual", "uidt": "Attachment"},
]
MACHINES = [
    {"Name": "Lathe", "Purpose": "turns round things", "Bought": 2019},
    {"Name": "Mill", "Purpose": "makes flat what is not", "Bought": 2021},
    {"Name": "Säge", "Purpose": "cuts 'to length', 100 % \\ \"sharp\"; $(no)", "Bought": 2022},
    {"Name": "Drill press", "Purpose": "holes, straight ones", "Bought": 2016},
    {"Name": "3D printer", "Purpose": "plastic parts over night", "Bought": 2025},
]
MANUAL = b"Lathe manual\n\n1. Wear glasses.\n2. Remove the chuck key.\n"


def login(lab: Lab, url: str | None = None) -> NocoDB:
    """Sign in as the lab's super admin, who is signed up at the first call.

    The login is kept in .lab/<name>/nocodb.json. `url` is another NocoDB of the same database.
    """
    server = NocoDB(url or lab.nocodb_url)
    path = lab.directory / "nocodb.json"
    if path.exists():
        known = json.loads(path.read_text())
        try:
            server.sign_in(known["email"], known["password"])
        except ApiError as error:
            # A database that was made anew does not know the user: sign up again.
            if error.status >= 500:
                raise
        else:
            return server
    else:
        known = {"url": lab.nocodb_url, "email": EMAIL, "password": secrets.token_urlsafe(18)}
        # Before the sign-up: a login that nobody knows could not be used again.
        files.write(path, json.dumps(known, indent=2) + "\n")
    server.sign_up(known["email"], known["password"])
    return server


def fill(lab: Lab) -> tuple[int, int]:
    """Put the base, the table, its rows and an uploaded file in, unless they are there.

    Returns (rows that are there, rows that were added).
    """
    server = login(lab)
    table = server.table(server.base(BASE), TABLE, COLUMNS)
    present = {row["Name"] for row in server.records(table)}
    missing: list[dict[str, Any]] = [dict(m) for m in MACHINES if m["Name"] not in present]
    for machine in missing:
        if machine["Name"] == "Lathe":
            machine["Manual"] = server.upload("lathe-manual.txt", MANUAL, "text/plain")
    if missing:
        server.insert(table, missing)
    return len(present) + len(missing), len(missing)


def records(lab: Lab, url: str | None = None) -> list[dict[str, Any]]:
    """The demo table's rows as NocoDB has them now: [{"Name": "Lathe", ...}, ...].

    Without the passing links to attachments, which every start of NocoDB makes anew.
    """
    server = login(lab, url)
    rows = server.records(server.table(server.base(BASE), TABLE, COLUMNS))
    for row in rows:
        for attachment in row.get("Manual") or ():
            attachment.pop("signedPath", None)
    return rows


def manual(lab: Lab, url: str | None = None) -> bytes:
    """The content of the demo's uploaded file, read back through NocoDB."""
    server = login(lab, url)
    rows = server.records(server.table(server.base(BASE), TABLE, COLUMNS))
    attachments = [row["Manual"] for row in rows if row.get("Manual")]
    return server.download(attachments[0][0])


def summary(lab: Lab) -> str:
    """The last words of the demo: where NocoDB is, how to log in, what to try next."""
    name = "" if lab.name == DEFAULT_NAME else f" --name {lab.name}"
    return f"""\
NocoDB        {lab.nocodb_url}   (base {BASE}, table {TABLE})
login         {lab.directory / "nocodb.json"}
S3 bucket     {lab.bucket} at {lab.s3_url}

try next:     . {lab.directory / "env"}
              inv status
              inv backup.list
              inv backup.verify --deep
              inv lab.status{name}
remove it:    inv lab.down{name}"""


def main(argv: list[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lab.demo", description=__doc__)
    parser.add_argument("what", choices=["fill", "summary"])
    parser.add_argument("--name", default=DEFAULT_NAME, help="the lab's name")
    arguments = parser.parse_args(argv)
    try:
        lab = Lab.load(arguments.name)
        if arguments.what == "fill":
            there, added = fill(lab)
            print(f"NocoDB has base {BASE}, table {TABLE}: {there} rows ({added} added)")
        else:
            print(summary(lab))
    except SwarmkeepError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  next: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
