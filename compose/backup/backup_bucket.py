"""When the newest of the backups in the bucket was made, as the backup's container asks for it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from backup_clock import LEEWAY, say

LOOK_BACK = 40
"""Days of sets that are listed to find the newest."""


class Bucket:
    """The bucket of the settings, by the AWS CLI."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.settings = settings
        project = settings.get("PROJECT", "")
        self.prefix = f"{project}/" if project else ""

    def newest(self, prefix: str, ending: str, *, by_name: bool) -> float | None:
        """When the newest object with these ends was made: by its name, or by the bucket."""
        words = [
            "s3api",
            "list-objects-v2",
            "--bucket",
            self.settings["S3_BUCKET"],
            "--prefix",
            prefix,
        ]
        if by_name:
            after = datetime.now(UTC) - timedelta(days=LOOK_BACK)
            words += ["--start-after", f"{prefix}{after:%Y%m%d}"]
        answer = self._aws([*words, "--query", "Contents[].[Key,LastModified]", "--output", "json"])
        times = []
        for key, modified in answer or []:
            if not key.endswith(ending):
                continue
            text = key.removeprefix(prefix).removesuffix(ending) if by_name else modified
            try:
                when = (
                    datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                    if by_name
                    else (datetime.fromisoformat(text))
                )
            except ValueError:
                continue
            times.append(when.timestamp())
        return max((one for one in times if one <= time.time() + LEEWAY), default=None)

    def _aws(self, words: Sequence[str]) -> list[tuple[str, str]] | None:
        endpoint = self.settings.get("S3_ENDPOINT_URL", "")
        environment = {
            **os.environ,
            "AWS_DEFAULT_REGION": self.settings["AWS_REGION"],
            "AWS_PAGER": "",
        }
        if credentials := self.settings.get("AWS_SHARED_CREDENTIALS_FILE"):
            environment["AWS_SHARED_CREDENTIALS_FILE"] = credentials
        command = ["aws", *(["--endpoint-url", endpoint] if endpoint else []), *words]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=120, check=True
            )
            found: list[tuple[str, str]] | None = json.loads(done.stdout or "null")
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            # The job itself says what is wrong with the bucket.
            reason = getattr(error, "stderr", "") or str(error)
            say(f"WARNING the bucket does not say what it has: {reason.strip().splitlines()[-1:]}")
            return None
        return found
