"""`inv backup.verify` against a prefix with 100,000 objects in the lab's real S3 server.

Run as `make bench-verify`. Goal: at most 8 requests and under 2 s. The objects are made under a
database name of their own and removed afterwards; making them takes some minutes.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from bench.progress import in_turn
from fabfile.backup.object_keys import EPOCH, Keys
from lab import s3
from lab.model import DEFAULT_NAME, Lab

ROOT = Path(__file__).resolve().parent.parent
DATABASE = "bench_verify"
SETS = 33_334
"""Of three objects each."""
INTERVAL = timedelta(minutes=30)
BODY = b"x" * 2048
SHA256 = hashlib.sha256(BODY).hexdigest()
MANIFEST = {
    "format": 1, "tool": "bench", "database": DATABASE, "started": "", "seconds": 1,
    "server_version": "15", "server_version_num": 150000, "size": 1, "images": {}, "rows": None,
}  # fmt: skip
MOST_REQUESTS, MOST_SECONDS = 5, 2.0


def times() -> Iterator[datetime]:
    """One every half hour, the last one just now: almost two years."""
    now = datetime.now(UTC).replace(microsecond=0)
    for back in range(SETS):
        yield now - back * INTERVAL


def fill(client: Any, bucket: str) -> None:
    """Make the objects, in parallel."""
    keys = Keys(DATABASE)

    def put(when: datetime) -> None:
        second = int((when - EPOCH).total_seconds())
        parts = {}
        for part in ("dump", "globals"):
            key = keys.part(second, part)
            client.put_object(Bucket=bucket, Key=key, Body=BODY)
            parts[part] = {"key": key, "bytes": len(BODY), "sha256": SHA256}
        manifest = json.dumps(MANIFEST | {"parts": parts}).encode()
        client.put_object(Bucket=bucket, Key=keys.of(second), Body=manifest)

    start = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        for done, _ in enumerate(in_turn(pool.map(put, times()), "sets", SETS), 1):
            if done % 5000 == 0:
                print(f"  {done} sets, {time.monotonic() - start:.0f} s", flush=True)


def clear(client: Any, bucket: str) -> None:
    """Remove the objects again."""
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=f"postgres/{DATABASE}/"
    )
    for page in pages:
        keys = [{"Key": item["Key"]} for item in page.get("Contents", [])]
        if keys:
            client.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})


def verify(lab: Lab) -> dict[str, Any]:
    """Run the command as a user does and return its JSON, with the whole process's seconds."""
    data = yaml.safe_load(lab.hosts_file.read_text()) | {"pg_db": DATABASE}
    with tempfile.TemporaryDirectory() as folder:
        hosts = Path(folder) / "hosts.yaml"
        hosts.write_text(yaml.safe_dump(data))
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "invoke", "backup.verify", "--json", "--hosts", str(hosts)],
            cwd=ROOT,
            env=lab.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        process = time.perf_counter() - start
    verdict: dict[str, Any] = json.loads(done.stdout)
    return verdict | {"process_seconds": process}


def main() -> int:
    """Fill, verify three times, clear; exit code 1 if a goal is missed."""
    lab = Lab.load(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_NAME)
    client = s3.client(lab, lab.secrets[s3.OPERATOR])
    print(f"making {SETS} objects")
    try:
        fill(client, lab.bucket)
        runs = [verify(lab) for _ in range(3)]
    finally:
        print("removing them", flush=True)
        clear(client, lab.bucket)
    for run in runs:
        print(
            f"ok {run['ok']}  requests {run['requests']}  verify {run['seconds']:.2f} s  "
            f"whole process {run['process_seconds']:.2f} s"
        )
    good = all(
        run["ok"] and run["requests"] <= MOST_REQUESTS and run["seconds"] < MOST_SECONDS
        for run in runs
    )
    print(f"goal (at most {MOST_REQUESTS} requests, under {MOST_SECONDS:.0f} s): {good}")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
