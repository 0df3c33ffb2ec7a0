"""What changes the cluster without being a deploy: on record, and one at a time where it matters.

A deploy and a rotation end with more than a line in the log: see deploy/finish_script.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fabfile.base.errors import SwarmkeepError
from fabfile.deploy.finish_script import Ending, Options
from fabfile.ssh.fleet import Fleet, Host
from fabfile.swarm import audit_log, deploy_lock
from fabfile.swarm.deploy_lock import Lease, LockLostError

Say = Callable[[str], None]


@dataclass
class Record:
    """What a command has done so far, a line per change, and what failed of it."""

    changes: list[str] = field(default_factory=list)
    error: str = ""

    def line(self, options: Options, project: str) -> str:
        """The script that appends this to a project's log on the manager it runs on."""
        outcome = "failed" if self.error else "ok"
        entry = audit_log.entry(
            options.origin, options.command, outcome, changes=self.changes, error=self.error
        )
        return audit_log.append_script(entry, project)


@contextmanager
def on_record(fleet: Fleet, options: Options, record: Record) -> Iterator[None]:
    """Put what the block does on a manager's record, whatever it ends with.

    Nothing is written where nothing was changed and nothing failed, nor where no manager
    can be reached: the command's own verdict comes first.
    """
    try:
        yield
    except BaseException as error:
        record.error = audit_log.reason(error)
        raise
    finally:
        if not fleet.dry and (record.changes or record.error):
            with contextlib.suppress(SwarmkeepError):
                audit_log.write(
                    fleet.first_manager(), record.line(options, fleet.inventory.project)
                )


@contextmanager
def locked(
    manager: Host, options: Options, record: Record, *, say: Say, also: str = ""
) -> Iterator[Lease]:
    """The deploy lock for the length of the block, which is put on record at its end.

    `also` is run in the round trip that gets the lock. Raises LockedError.
    """
    with deploy_lock.held(
        manager, options.origin, options.command, wait=options.wait, say=say, also=also
    ) as lease:
        try:
            yield lease
        except BaseException as error:
            record.error = audit_log.reason(error)
            # Ctrl-C may have closed the connection, or the manager be gone.
            with contextlib.suppress(SwarmkeepError):
                lease.release(record.line(options, manager.inventory.project))
            raise
        lease.release(record.line(options, manager.inventory.project))


def give_up(lease: Lease, ending: Ending, error: BaseException) -> None:
    """Put a deploy that has failed on record, and give the lock back.

    Where the lock is another's now, or was taken away before the end, the line on record is
    all that is written. An error of its own hides nothing: Ctrl-C may have closed the connection.
    """
    with contextlib.suppress(SwarmkeepError):
        if not isinstance(error, LockLostError):
            with contextlib.suppress(LockLostError):
                lease.finish(ending.script, ending.stdin)
                return
        lease.release(ending.log)
