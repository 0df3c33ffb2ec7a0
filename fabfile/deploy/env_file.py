"""Environment files as `docker stack deploy` reads them: opts.ParseEnvFile of docker/cli.

https://github.com/docker/cli/blob/master/opts/file.go (later pkg/kvfile): a line is NAME=value,
taken as it is, quotes and trailing blanks too; # begins a comment at the beginning of a line only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fabfile.base.errors import ConfigError


def parse(content: bytes, path: Path, surrounding: Mapping[str, str]) -> dict[str, str]:
    """Given what is in an environment file, return its variables; a later line wins.

    A name without a value takes it from `surrounding`, our own environment. Raises ConfigError
    with the number of the line, and without what is in it: people keep passwords there.
    """
    found: dict[str, str] = {}
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.removesuffix(b"\r").decode().lstrip()
        except UnicodeDecodeError:
            raise _wrong(path, number, "is not UTF-8", "save the file as UTF-8") from None
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not name:
            raise _wrong(path, number, "has no name before =", "write NAME=value")
        if " " in name or "\t" in name:
            raise _wrong(path, number, "has a blank in the name before =", "write NAME=value")
        # Only a name by itself is trimmed.
        name = name if equals else name.strip()
        if not equals and name not in surrounding:
            raise _wrong(path, number, f"{name} has no value, and is not set here either",
                         f"write {name}=value there, or export {name} first")  # fmt: skip
        found[name] = value if equals else surrounding[name]
    return found


def _wrong(path: Path, number: int, what: str, hint: str) -> ConfigError:
    return ConfigError(f"{path}: line {number}: {what}", hint=hint)
