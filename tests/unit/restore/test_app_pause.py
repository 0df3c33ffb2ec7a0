"""The app's pause: what the guard's scripts do to a service, and what is done where one dies."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from fabfile.base.errors import SwarmkeepError, UnreachableError
from fabfile.restore import app_pause
from fabfile.restore.app_pause import LABEL, StillDownError, guard_script, stopped, up_script
from fabfile.ssh.remote_command import Result
from fabfile.swarm.deploy_lock import LockLostError

NAME = "appstack_nocodb"

# A service of two files: replicas and label. "broken" has the number of updates that fail.
DOCKER = """#!/bin/sh
cd "$(dirname "$0")" || exit 1
case "$*" in
  *"index .Spec.Labels"*) cat label ;;
  *Replicated.Replicas*) cat replicas ;;
  "service ps"*) ;;
  "service update"*)
    left=$(cat broken)
    [ "$left" = 0 ] || { echo $((left - 1)) >broken; echo "update out of sequence" >&2; exit 1; }
    while [ $# -gt 0 ]; do
      case $1 in
        --replicas) echo "$2" >replicas; shift ;;
        --label-add) echo "${2#*=}" >label; shift ;;
        --label-rm) : >label; shift ;;
      esac
      shift
    done
    ;;
  *) echo "no such thing: $*" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def service(tmp_path: Path) -> Path:
    for name, content in (("docker", DOCKER), ("sleep", "#!/bin/sh\n")):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    for name, content in (("replicas", "3\n"), ("label", ""), ("broken", "0\n")):
        (tmp_path / name).write_text(content)
    return tmp_path


def run(service: Path, script: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    path = f"{service}:/usr/bin:/bin"
    return subprocess.run(
        ["sh", "-c", script],
        input=stdin,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def state(service: Path) -> tuple[str, str]:
    return (service / "replicas").read_text().strip(), (service / "label").read_text().strip()


class TestScripts:
    def test_guard_brings_it_back_when_nobody_says_anything_more(self, service):
        done = run(service, guard_script(NAME), "..")
        assert (done.returncode, done.stdout) == (0, "down 3\n")
        assert state(service) == ("3", "")

    def test_guard_beside_one_that_was_killed_believes_the_label(self, service):
        (service / "replicas").write_text("0\n")
        (service / "label").write_text("3\n")
        assert run(service, guard_script(NAME)).stdout == "down 3\n"
        assert state(service) == ("3", "")

    def test_guard_that_cannot_bring_it_back_fails(self, service):
        # Once it is down no update works any more.
        script = guard_script(NAME).replace('echo "down', 'echo 99 >"$STATE"; echo "down')
        done = run(service, f"STATE={service}/broken\n{script}")
        assert done.returncode == 1
        assert "update out of sequence" in done.stderr
        assert state(service) == ("0", "3")

    def test_what_a_killed_guard_has_left_is_scaled_up(self, service):
        (service / "replicas").write_text("0\n")
        (service / "label").write_text("3\n")
        (service / "broken").write_text("2\n")
        assert run(service, up_script(NAME)).returncode == 0
        assert state(service) == ("3", "")

    def test_what_no_guard_has_stopped_is_left_alone(self, service):
        (service / "replicas").write_text("0\n")
        assert run(service, up_script(NAME)).returncode == 0
        assert state(service) == ("0", "")

    def test_scaling_up_that_never_works_is_a_failure(self, service):
        (service / "label").write_text("3\n")
        (service / "broken").write_text("99\n")
        assert run(service, up_script(NAME)).returncode == 1


class Manager:
    """Runs a guard as told: which lines it says, and how it ends once nobody beats any more."""

    name = "manager1"

    def __init__(self, end: int | SwarmkeepError = 0, *, lines: Iterable[str] = ("down 3",)):
        self.end, self.lines, self.killed = end, lines, False
        self.changes: list[str] = []
        self.refusal: SwarmkeepError | int = 0

    def feed(self, command, chunks, *, timeout, on_line: Callable[[str], None]) -> Result:
        for line in self.lines:
            on_line(line)
        if not self.killed:
            for _ in chunks:
                pass
        if isinstance(self.end, SwarmkeepError):
            raise self.end
        return Result(self.name, self.end, "", "its tasks do not end" if self.end == 1 else "")

    def change(self, script: str) -> Result:
        self.changes.append(script)
        if isinstance(self.refusal, SwarmkeepError):
            raise self.refusal
        return Result(self.name, self.refusal, "", "no quorum" if self.refusal else "")

    def pause(self, body: Callable[[app_pause.Pause], None] = lambda pause: None) -> None:
        with stopped(self, NAME, self.change) as pause:  # type: ignore[arg-type]
            body(pause)


def fail(_pause: app_pause.Pause) -> None:
    raise SwarmkeepError("the swap failed", hint="see", details=("why",))


class TestPause:
    def test_guard_that_ends_well_needs_no_help(self):
        manager = Manager()
        manager.pause(lambda pause: pause.check())
        assert manager.changes == []

    @pytest.mark.parametrize("end", [1, -1, 137, UnreachableError("gone")])
    def test_guard_that_does_not_is_replaced(self, end):
        manager = Manager(end)
        manager.pause()
        assert manager.changes == [up_script(NAME)]

    def test_guard_that_was_killed_is_noticed_before_the_swap(self):
        manager = Manager(-1)
        manager.killed = True

        def body(pause: app_pause.Pause) -> None:
            pause._thread.join(10)
            pause.check()

        with pytest.raises(SwarmkeepError, match="did not stay stopped: its guard on manager1"):
            manager.pause(body)
        assert manager.changes == [up_script(NAME)]

    def test_app_that_cannot_be_stopped_is_started_all_the_same(self):
        manager = Manager(1, lines=())
        manager.killed = True
        with pytest.raises(SwarmkeepError, match="could not be stopped: its tasks do not end"):
            manager.pause()
        assert manager.changes == [up_script(NAME)]

    @pytest.mark.parametrize("refusal", [1, LockLostError("the lock is not ours")])
    def test_app_that_stays_down_is_the_news_with_what_to_type(self, refusal):
        manager = Manager(-1)
        manager.refusal = refusal
        with pytest.raises(StillDownError) as caught:
            manager.pause(fail)
        said = "no quorum" if refusal == 1 else "the lock is not ours"
        assert caught.value.message.startswith(
            f"the swap failed; and {NAME} is stopped and could not be started again: "
        )
        assert said in caught.value.message
        assert caught.value.hint == (
            "inv deploy-app starts it; or on a manager: "
            f"docker service update --replicas 3 --label-rm {LABEL} {NAME}"
        )
        assert caught.value.details == ("why",)

    def test_manager_that_is_lost_cannot_be_asked(self):
        manager = Manager(UnreachableError("manager1: gone"))
        manager.refusal = UnreachableError("manager1: gone")
        with pytest.raises(UnreachableError, match="could not be seen: manager1: gone") as caught:
            manager.pause()
        assert "its guard on the manager starts it within 20 s" in caught.value.hint

    def test_failure_of_the_block_stays_the_news_when_the_app_is_up(self):
        with pytest.raises(SwarmkeepError, match=r"^the swap failed$"):
            Manager(-1).pause(fail)
