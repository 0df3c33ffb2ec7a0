"""The real Kinto for its image: its Python packages, fetched with pip on this machine."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

from lab import docker
from lab.progress import Progress

PYTHON = "3.11"
"""Of Debian 12, which the image is made of."""


def build(progress: Progress, context: Path, version: str) -> None:
    """Fill `context/app` with this version of Kinto and what it needs, all as wheels."""
    machine = platform.machine()
    platforms = [f"--platform={kind}_{machine}" for kind in ("manylinux2014", "manylinux_2_28")]
    with progress.step(f"Kinto {version}: pip install") as step:
        docker.stream(
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--no-input", "--target", str(context / "app"), "--only-binary=:all:",
            f"--python-version={PYTHON}", "--implementation=cp", *platforms,
            "--constraint", str(context / "constraints.txt"),
            f"kinto[postgresql]=={version}", "kinto-attachment", "psycopg2-binary",
            on_line=step.doing,
        )  # fmt: skip
    for name in ("bin", "tests"):
        shutil.rmtree(context / "app" / name, ignore_errors=True)
