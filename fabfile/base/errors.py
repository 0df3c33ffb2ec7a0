"""The one base error: what failed, on which object, what to do next, and the exit code."""

from __future__ import annotations

# Exit codes, the same for every command (docs/architecture.md, "Exit codes").
OK = 0
FAILED = 1
CONFIG = 2
UNREACHABLE = 3
CHECK_FAILED = 4


class SwarmkeepError(Exception):
    """A failure a user can meet: one line that names the object, and the next step.

    `details` are further lines (a log's last lines, a list of every mistake in a
    file) which are shown below the message.
    """

    exit_code = FAILED

    def __init__(self, message: str, *, hint: str = "", details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details


class ConfigError(SwarmkeepError):
    """hosts.yaml, the vault or the command line is wrong; nothing was contacted or changed."""

    exit_code = CONFIG


class UnreachableError(SwarmkeepError):
    """A host or the bucket cannot be reached, or refuses us."""

    exit_code = UNREACHABLE


class CheckFailedError(SwarmkeepError):
    """A backup check failed: see terminal/verify_dialog.py and restore/restore_script.py."""

    exit_code = CHECK_FAILED
