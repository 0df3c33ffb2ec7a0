"""Debian packages of this machine that the lab needs: installed where we may, named where not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fabfile.base.errors import SwarmkeepError
from lab import docker
from lab.progress import Progress

APT = ("apt-get", "-y", "-o", "DPkg::Lock::Timeout=300")


def can_install() -> bool:
    """Whether packages can be installed: root on a machine with apt."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def require(progress: Progress, commands: dict[str, str], why: str) -> None:
    """Make sure that commands exist. `commands` is command -> Debian package.

    Raises SwarmkeepError naming what to install where that is not ours to do.
    """
    missing = {c: package for c, package in commands.items() if not shutil.which(c)}
    if not missing:
        return
    names = " ".join(sorted(set(missing.values())))
    if not can_install():
        raise SwarmkeepError(
            f"{', '.join(missing)} not found: {why}", hint=f"as root: apt-get install {names}"
        )
    install(progress, sorted(set(missing.values())))


def install(progress: Progress, packages: list[str]) -> None:
    """Install Debian packages, without what they merely recommend."""
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    with progress.step(f"apt-get install {' '.join(packages)}") as step:
        if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
            docker.stream(*APT, "update", on_line=step.doing, environment=environment)
        wanted = ("install", "--no-install-recommends", *packages)
        try:
            docker.stream(*APT, *wanted, on_line=step.doing, environment=environment)
        except SwarmkeepError:
            # Lists that are there may be old and name packages the mirror has replaced.
            docker.stream(*APT, "update", on_line=step.doing, environment=environment)
            docker.stream(*APT, *wanted, on_line=step.doing, environment=environment)
