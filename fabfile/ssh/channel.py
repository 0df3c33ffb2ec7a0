"""One command on one SSH channel: sudo's prompt, stdin, both outputs, exit code, silence."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from fabfile.base.errors import UnreachableError

if TYPE_CHECKING:
    import paramiko

_PROMPT = b"[swarmkeep sudo prompt]"
_READY = b"[swarmkeep ready]\n"
BEGIN = b"[swarmkeep begin]\n"
"""What every command prints first: before it, a login script may have printed something."""
_BLOCK = 32768


class Feed:
    """Chunks for a command's stdin, sent once the command is known to be the reader."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.error: BaseException | None = None

    def send(self, channel: paramiko.Channel) -> None:
        """Send everything, then end of file. A command that stops reading early is no error."""
        try:
            for chunk in self._chunks:
                channel.sendall(chunk)
        except OSError:
            # Its exit code says why it stopped reading.
            return
        except Exception as error:  # noqa: BLE001 - handed to the caller's thread
            self.error = error
        finally:
            if not channel.closed:
                channel.shutdown_write()


class Exchange:
    """Runs one script and keeps what came back; without `keep`, not what `on_line` was given.

    With `sudo` (a password, "" for none) the script runs through `sudo -S`. Its
    password and the script's stdin share one stream: so the password is sent only at
    sudo's own prompt, and stdin only after the script has said that it is the one
    reading. A secret can therefore never be taken for a password, nor the reverse.
    """

    def __init__(
        self,
        label: str,
        feed: Feed,
        *,
        timeout: float,
        on_line: Callable[[str], None] | None,
        sudo: str | None,
        keep: bool = True,
    ) -> None:
        self._keep = keep
        self._label = label
        self._feed = feed
        self._timeout = timeout
        self._on_line = on_line
        self._sudo = sudo
        self._prompts = 0
        self._ready = sudo is None
        self._feeder: threading.Thread | None = None
        self._stdout = bytearray()
        self._stderr = bytearray()
        self._shown = 0
        self._begun = False
        self.exit_code = -1

    @property
    def stdout(self) -> str:
        """What the script wrote to stdout."""
        return self._stdout.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """What the script wrote to stderr, without sudo's prompt."""
        return self._stderr.decode(errors="replace")

    def run(self, transport: paramiko.Transport, script: str) -> None:
        """Run the script to its end. Raises UnreachableError, or what paramiko raises."""
        channel = transport.open_session(timeout=self._timeout)
        try:
            channel.settimeout(self._timeout)
            channel.exec_command(command_line(script, sudo=self._sudo is not None))
            if self._ready:
                self._start_feed(channel)
            stderr = threading.Thread(target=self._read_stderr, args=(channel,), daemon=True)
            stderr.start()
            self._read_stdout(channel)
            stderr.join(self._timeout)
            self.exit_code = channel.recv_exit_status()
        finally:
            channel.close()
        if self._feeder:
            self._feeder.join(self._timeout)
        if self._feed.error:
            raise self._feed.error
        if self.exit_code < 0 and not transport.is_active():
            raise UnreachableError(
                f"{self._label}: the connection was lost while a command ran",
                hint="the command may or may not have finished: run again, it repeats nothing done",
            )
        if not self._begun:
            raise self._account_error()
        if not self._ready:
            raise self._sudo_error()

    def _start_feed(self, channel: paramiko.Channel) -> None:
        # A thread, since a command may fill its output before it has read all its input.
        self._feeder = threading.Thread(target=self._feed.send, args=(channel,), daemon=True)
        self._feeder.start()

    def _read_stdout(self, channel: paramiko.Channel) -> None:
        while True:
            try:
                block = channel.recv(_BLOCK)
            except TimeoutError:
                raise UnreachableError(
                    f"{self._label}: a command has said nothing for {self._timeout:.0f} s",
                    hint="look at the host's load and disk, then run again",
                ) from None
            if not block:
                break
            self._stdout += block
            if not self._begun:
                # What a login script prints before is no output of the command.
                _, found, after = bytes(self._stdout).partition(BEGIN)
                if not found:
                    continue
                self._begun, self._stdout = True, bytearray(after)
            self._show_lines()
        if self._begun:
            self._show_lines(rest=True)

    def _show_lines(self, *, rest: bool = False) -> None:
        if self._on_line is None:
            return
        end = len(self._stdout) if rest else self._stdout.rfind(b"\n") + 1
        if end > self._shown:
            for line in self._stdout[self._shown : end].decode(errors="replace").splitlines():
                self._on_line(line)
            if self._keep:
                self._shown = end
            else:
                del self._stdout[:end]

    def _read_stderr(self, channel: paramiko.Channel) -> None:
        try:
            while block := channel.recv_stderr(_BLOCK):
                self._stderr += block
                if not self._ready:
                    self._converse(channel)
        except (TimeoutError, OSError):
            # stdout's reader reports the same silence or loss, once.
            return

    def _converse(self, channel: paramiko.Channel) -> None:
        """Answer sudo's first prompt; a second one means that the password was wrong."""
        if _READY in self._stderr:
            before, _, after = bytes(self._stderr).partition(_READY)
            self._stderr = bytearray(before.replace(_PROMPT, b"") + after)
            self._ready = True
            self._start_feed(channel)
            return
        prompts = self._stderr.count(_PROMPT)
        if prompts == self._prompts:
            return
        self._prompts = prompts
        if prompts == 1 and self._sudo:
            channel.sendall(self._sudo.encode() + b"\n")
        else:
            channel.close()

    def _account_error(self) -> UnreachableError:
        """Whatever ran, it was not the shell we asked for."""
        said = (self.stdout + self.stderr).strip().splitlines()
        if self.exit_code < 0 and not said:
            return UnreachableError(
                f"{self._label}: the command there was killed before it began",
                hint="run the same again",
            )
        return UnreachableError(
            f"{self._label}: the account cannot run commands there: "
            f"{said[-1] if said else f'it ended with exit code {self.exit_code} and no word'}",
            hint="it needs a login shell that knows sh's language (its line in /etc/passwd) and no "
            "ForceCommand or internal-sftp for it in sshd_config",
        )

    def _sudo_error(self) -> UnreachableError:
        if self._prompts and not self._sudo:
            return UnreachableError(
                f"{self._label}: sudo wants a password",
                hint="run: inv --prompt-for-sudo-password ..., or allow NOPASSWD for this user",
            )
        if self._prompts > 1:
            return UnreachableError(
                f"{self._label}: sudo refused the password",
                hint="run again with the right one; nothing was changed",
            )
        said = self.stderr.replace(_PROMPT.decode(), "").strip().splitlines()
        return UnreachableError(
            f"{self._label}: sudo refused: {said[-1] if said else 'it said nothing'}",
            hint="the user must be allowed to run any command as root (sudo -l shows it)",
        )


def command_line(script: str, *, sudo: bool) -> str:
    """Given a script, return the line to execute: sh, as root. What it prints first shows that the
    account's login shell has really run it.
    """
    begin = f"echo '{BEGIN.decode().strip()}'\n"
    if sudo:
        # -k: a cached sudo ticket must not make the prompt come and go between commands.
        ready = f"printf '{_READY.decode().strip()}\\n' >&2\n"
        inner = shlex.quote(ready + script)
        script = f"exec sudo -k -S -p '{_PROMPT.decode()}' -- sh -c {inner}"
    return f"exec sh -c {shlex.quote(begin + script)}"
