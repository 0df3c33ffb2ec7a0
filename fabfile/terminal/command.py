"""What every command shares: errors become one line and an exit code, never a traceback."""

from __future__ import annotations

import functools
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.context import Context
from invoke.exceptions import Exit, ParseError
from invoke.parser import Parser, ParseResult
from invoke.tasks import task

from fabfile.base.errors import CONFIG, FAILED, ConfigError, SwarmkeepError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from fabfile.backup.bucket import Bucket
    from fabfile.config.inventory import Inventory
    from fabfile.monitoring.notifications import Notifier
    from fabfile.ssh.fleet import Fleet
    from fabfile.vault.backup_identity import Identity
    from fabfile.vault.reading import Secrets

HOSTS_HELP = "hosts file to use instead of $SWARMKEEP_HOSTS or ./hosts.yaml"
VAULT_VARIABLES = ("SWARMKEEP_VAULT_PASSWORD", "SWARMKEEP_VAULT_PASSWORD_FILE")
INTERRUPTED = 130
MAY_FOLLOW = {"upgrade-db": "target", "deploy-app": "app", "secrets.rotate": "app"}
"""Commands with a word after them that may be left out: the flag that it stands for."""
OTHER_NAMES = {"adopt": {"--from": "--source"}}
"""Flags under names that no parameter of Python can have."""


def command(notifies: str = "", **options: Any) -> Callable[[Callable[..., None]], Any]:
    """Given Invoke task options, return a decorator that makes a function a Swarmkeep command.

    It is Invoke's @task without short flags (a parameter named `hosts` would take
    -h away from help), and it translates every error at this one place. `notifies`: the
    command's name, if hosts.yaml may say that others are told how it ended.
    """
    options.setdefault("auto_shortflags", False)
    options.setdefault("help", {})

    def decorate(function: Callable[..., None]) -> Any:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                with _told(notifies, args, kwargs):
                    function(*args, **kwargs)
            except SwarmkeepError as error:
                show_error(error)
                raise Exit(code=error.exit_code) from None
            except KeyboardInterrupt:
                print("\ninterrupted", file=sys.stderr)
                raise Exit(code=INTERRUPTED) from None
            except BrokenPipeError:
                # The reader (head, less) has gone; what is left to print interests nobody.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise Exit(code=FAILED) from None
            except Exit:
                raise
            except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback for users
                if os.environ.get("SWARMKEEP_DEBUG"):
                    traceback.print_exc()
                show_error(
                    SwarmkeepError(
                        f"internal error in {function.__name__}: {type(error).__name__}: {error}",
                        hint="this is a bug: run again with SWARMKEEP_DEBUG=1 and report it",
                    )
                )
                raise Exit(code=FAILED) from None

        if "hosts" in function.__code__.co_varnames[: function.__code__.co_argcount]:
            options["help"].setdefault("hosts", HOSTS_HELP)
        return task(run, **options)

    return decorate


@contextmanager
def _told(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
    """Tell others how the command in the block ends, as far as hosts.yaml asks for it.

    Whom to tell is settled before anything begins: without an address it is refused.
    """
    notifier = _notifier(name, args, kwargs) if name else None
    name = _with_subject(name, kwargs)
    try:
        yield
    except SwarmkeepError as error:
        _tell(notifier, name, error)
        raise
    _tell(notifier, name, None)


def _tell(notifier: Notifier | None, name: str, error: SwarmkeepError | None) -> None:
    missed = notifier.ended(name, error) if notifier else []
    for address in missed:
        print(
            f"warning: the notification to address {address} was not taken; next: inv notify.test",
            file=sys.stderr,
        )


def _notifier(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Notifier | None:
    # A command that has the flag is told of only with it: it may be run often, by people too.
    if not kwargs.get("notify", "notify" not in kwargs) or (args and is_dry(args[0])):
        return None
    inventory = read_inventory(kwargs.get("hosts"))
    asked = "notify" in kwargs
    if not inventory.notify.on:
        if asked:
            raise ConfigError("--notify: hosts.yaml has no notify", hint="docs/monitoring.md")
        return None
    if name not in inventory.notify.commands and not asked:
        return None
    from fabfile.monitoring.notifications import Notifier

    return Notifier(inventory, read_vault(inventory))


def _with_subject(name: str, kwargs: dict[str, Any]) -> str:
    """A command and which part of a project it is about: "rollback app"."""
    subject = kwargs.get("stack") or kwargs.get("database") or kwargs.get("app") or ""
    return f"{name} {subject}".rstrip()


def own_usage_errors() -> None:
    """Give a wrong command line our message and exit code 2 instead of Invoke's 1.

    Invoke has no hook for it: it exits with 1, and shows a traceback where a flag wants a
    number and gets something else. So its parser is wrapped here, at this one place.
    """
    parse = Parser.parse_argv

    def parse_argv(self: Parser, argv: list[str]) -> ParseResult:
        try:
            return parse(self, with_flags(argv, _names(self)))
        except ParseError as error:
            context = getattr(error.context, "name", None)
            problem = str(error)
        except ValueError as error:
            context, problem = None, f"a flag needs a whole number: {error}"
        hint = f"see: inv --help {context}" if context else "see: inv --list"
        show_error(ConfigError(problem, hint=hint))
        raise Exit(code=CONFIG)

    Parser.parse_argv = parse_argv  # type: ignore[method-assign]


def with_flags(argv: list[str], commands: Collection[str] = ()) -> list[str]:
    """Given a command line, return it with words that may be left out as flags. What is one of the
    `commands` stays one.

    Invoke has positional words that must be there, and none that may: `inv upgrade-db 17-bookworm`
    and `inv upgrade-db --undo`.
    """
    found = list(argv)
    for i, (name, word) in enumerate(itertools.pairwise(argv)):
        if name in MAY_FOLLOW and not word.startswith("-") and word not in commands:
            found[i + 1] = f"--{MAY_FOLLOW[name]}={word}"
    names = {old: new for name, flags in OTHER_NAMES.items() if name in argv
             for old, new in flags.items()}  # fmt: skip
    for i, word in enumerate(found):
        flag, equals, value = word.partition("=")
        found[i] = f"{names.get(flag, flag)}{equals}{value}"
    return found


def _names(parser: Parser) -> set[str]:
    """What the commands of a parser are called, by their aliases, too."""
    return {name for one in parser.contexts.values() for name in (one.name, *one.aliases) if name}


def show_error(error: SwarmkeepError) -> None:
    """Print an error to stderr: the line, its details, the next step."""
    print(f"error: {error.message}", *(f"  {line}" for line in error.details), sep="\n",
          file=sys.stderr)  # fmt: skip
    if error.hint:
        print(f"  next: {error.hint}", file=sys.stderr)


def read_inventory(hosts: str | None) -> Inventory:
    """Given the --hosts flag, return the inventory."""
    from fabfile.config import hosts_file
    from fabfile.terminal import process_cache

    path = hosts_file.locate(hosts)
    return process_cache.read(path, ("hosts", path), lambda: hosts_file.load(path))


def known_project(inventory: Inventory) -> str:
    """The project's identity, as far as it is known without asking for a password; else "".

    Whoever only reads the bucket may have no vault.
    """
    from fabfile.vault.project_identity import project_of

    if inventory.project_id:
        return inventory.project_id
    secrets = open_vault(inventory)
    return project_of(inventory, secrets).id if secrets else ""


def open_vault(inventory: Inventory) -> Secrets | None:
    """The vault's secrets, if it can be opened without asking for a password."""
    from fabfile.terminal import process_cache
    from fabfile.vault import reading

    try:
        return process_cache.read(
            inventory.vault.file,
            ("vault", inventory.vault, *map(os.environ.get, VAULT_VARIABLES)),
            lambda: reading.load(inventory.vault),
        )
    except SwarmkeepError:
        return None


def open_bucket(inventory: Inventory, identity: str = "") -> Bucket:
    """The project's backups in the bucket. `identity`: the flag --identity of the command."""
    from fabfile.backup.bucket import Bucket

    return Bucket(
        inventory.backup, known_project(inventory), lambda: known_identity(inventory, identity)
    )


def known_identity(inventory: Inventory, flag: str) -> Identity | None:
    """The identity that is at hand for encrypted backups, without asking for the vault's password:
    of the flag --identity ("-": asked for, once), or of the vault. None for none.

    Raises ConfigError for what is no identity.
    """
    from fabfile.vault import backup_identity

    if not flag:
        secrets = open_vault(inventory)
        return backup_identity.of_vault(secrets) if secrets else None
    if flag != "-":
        return backup_identity.of_file(Path(flag).expanduser())
    if flag not in _typed:
        _typed[flag] = ask_secret("Identity (AGE-SECRET-KEY-1...): ")
    return backup_identity.of_text(_typed[flag].strip().upper(), "what was typed")


_typed: dict[str, str] = {}


def sudo_password(ctx: Context) -> str | None:
    """The password given to Invoke's --prompt-for-sudo-password, or None."""
    password: str | None = ctx.config.sudo.password
    return password


def is_dry(ctx: Context) -> bool:
    """Whether Invoke's --dry was given: commands that change something are shown, not run."""
    return bool(ctx.config.run.dry)


def connected(ctx: Context, inventory: Inventory) -> AbstractContextManager[Fleet]:
    """The inventory's hosts, for a `with` block; --dry and the sudo password are heeded.

    Connections stay open for the next command of the same process.
    """
    from fabfile.terminal import process_cache

    return process_cache.fleet(
        inventory, sudo_password=sudo_password(ctx), dry=is_dry(ctx), echo=print
    )


def ask_secret(question: str) -> str:
    """Ask on the terminal, without echo. ConfigError for Ctrl-D."""
    import getpass

    try:
        return getpass.getpass(question)
    except EOFError:
        raise ConfigError("nothing was entered") from None


def read_vault(inventory: Inventory) -> Secrets:
    """The secrets of the inventory's vault; on a terminal its password may be asked for."""
    from fabfile.terminal import process_cache
    from fabfile.vault import reading

    ask = ask_secret if sys.stdin.isatty() else None
    return process_cache.read(
        inventory.vault.file,
        ("vault", inventory.vault, *map(os.environ.get, VAULT_VARIABLES)),
        lambda: reading.load(inventory.vault, ask=ask),
    )
