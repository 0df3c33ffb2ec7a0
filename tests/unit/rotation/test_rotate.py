"""A rotation's parts, and its order when a step fails: what app, database and vault end with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fabfile.base import scram
from fabfile.base.errors import ConfigError, SwarmkeepError, UnreachableError
from fabfile.base.secret import Secret
from fabfile.config import hosts_file
from fabfile.deploy import stacks
from fabfile.deploy.finish_script import Options
from fabfile.rotation import role_password, rotating_app
from fabfile.rotation import rotate as rotation
from fabfile.rotation.rotating_app import RotatingApp
from fabfile.rotation.vault_entries import RotatingVault, without_entry
from fabfile.ssh.remote_command import Result
from fabfile.swarm import deploy_lock, postgres
from fabfile.swarm.deploy_lock import LockLostError
from fabfile.swarm.docker_commands import SecretVersion
from fabfile.swarm.operator import Origin
from fabfile.vault import editing, encryption
from fabfile.vault.encryption import decrypt, encrypt
from fabfile.vault.reading import POSTGRES_PASSWORD, load
from tests.unit import clusters

pytestmark = pytest.mark.thorough

NEXT, PREVIOUS = f"{POSTGRES_PASSWORD}_next", f"{POSTGRES_PASSWORD}_previous"
PASSWORD = "correct horse"
OLD = "the-old-password"
CLEAR = f"# ours\n{POSTGRES_PASSWORD}: '{OLD}'  # the database\nother: kept\n"
HOSTS = """\
hosts:
  manager1: {address: 192.0.2.1, swarm: manager}
  db1: {address: 192.0.2.2, role: db}
  app1: {address: 192.0.2.3, role: app}
s3_bucket_name: backups
vault: {file: vault.yml, password_file: password}
"""


class TestVerifier:
    def test_test_vector_of_rfc_7677(self):
        """Section 3: user `user`, password `pencil`; the server's signature it gives."""
        salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
        messages = (
            b"n=user,r=rOprNGfwEbeRWgbNEkqO,"
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
            b"s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
        )
        kept = scram.verifier("pencil", salt=salt, iterations=4096)
        start, _, keys = kept.rpartition("$")
        assert start == "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ=="
        stored, server = (base64.b64decode(key) for key in keys.split(":"))
        signature = hmac.digest(server, messages, "sha256")
        assert base64.b64encode(signature) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        # The client's proof hides its key behind its signature; its hash is what is stored.
        proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
        mask = hmac.digest(stored, messages, "sha256")
        key = bytes(a ^ b for a, b in zip(proof, mask, strict=True))
        assert hashlib.sha256(key).digest() == stored

    def test_each_has_its_own_salt_and_accepts_its_password_only(self):
        one, two = scram.verifier("geheim"), scram.verifier("geheim")
        assert one != two
        assert scram.accepts(one, "nocodb", "geheim")
        assert not scram.accepts(one, "nocodb", "geheim2")
        assert "geheim" not in one

    def test_md5_as_postgresql_kept_it_before(self):
        kept = "md5" + hashlib.md5(b"geheimnocodb").hexdigest()
        assert scram.accepts(kept, "nocodb", "geheim")
        assert not scram.accepts(kept, "other", "geheim")

    @pytest.mark.parametrize("kept", ["", "SCRAM-SHA-256$x", "md5", "clear"])
    def test_what_is_no_verifier_accepts_nothing(self, kept):
        assert not scram.accepts(kept, "nocodb", "clear")

    @pytest.mark.parametrize(
        ("one", "same"),
        [("I\u00adX\u00e9", "IX\u00e9"), ("a\u00a0b", "a b"), ("\u2168\u00e9", "IX\u00e9")],
    )
    def test_passwords_beyond_ascii_are_prepared(self, one, same):
        """Examples of RFC 4013, section 3, made non-ASCII where PostgreSQL looks for that."""
        assert scram.accepts(scram.verifier(one), "u", same)

    @pytest.mark.parametrize("raw", ["\u00e9\u0007", "\u0627\u0031", "\u0221"])
    def test_what_the_preparation_refuses_is_taken_as_it_is(self, raw):
        assert scram.accepts(scram.verifier(raw), "u", raw)
        kept = scram.verifier(raw, salt=b"s" * 16)
        salted = hashlib.pbkdf2_hmac("sha256", raw.encode(), b"s" * 16, 4096)
        server = base64.b64encode(hmac.digest(salted, b"Server Key", "sha256")).decode()
        assert kept.endswith(server)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "hosts.yaml").write_text(HOSTS)
    (tmp_path / "password").write_text(PASSWORD)
    write(tmp_path, CLEAR)
    return tmp_path


def write(place: Path, clear: str) -> None:
    (place / "vault.yml").write_text(encrypt(clear.encode(), PASSWORD))


def read(place: Path) -> str:
    return decrypt((place / "vault.yml").read_text(), PASSWORD, name="vault.yml").decode()


def opened(place: Path) -> RotatingVault:
    return RotatingVault(hosts_file.load(place / "hosts.yaml").vault)


def entries(place: Path) -> dict[str, str]:
    found = load(hosts_file.load(place / "hosts.yaml").vault)
    return {name: found.require(name).reveal() for name in found.names()}


class TestVault:
    def test_way_of_a_rotation_through_the_vault(self, place):
        vault = opened(place)
        new = vault.new.reveal()
        assert not vault.interrupted
        assert len(new) >= 40
        assert vault.prepare()
        assert not vault.prepare()
        assert entries(place) == {POSTGRES_PASSWORD: OLD, "other": "kept", NEXT: new}
        again = opened(place)
        assert again.interrupted
        assert (again.old.reveal(), again.new.reveal()) == (OLD, new)
        assert vault.switch()
        assert entries(place) == {POSTGRES_PASSWORD: new, "other": "kept", PREVIOUS: OLD}
        again = opened(place)
        assert again.interrupted
        assert (again.old.reveal(), again.new.reveal()) == (OLD, new)
        again.finish()
        assert entries(place) == {POSTGRES_PASSWORD: new, "other": "kept"}
        assert "# ours" in read(place)
        assert not opened(place).interrupted

    def test_forgetting_leaves_the_old_password_alone(self, place):
        vault = opened(place)
        vault.prepare()
        vault.switch()
        vault.prepare()
        vault.forget()
        assert entries(place) == {POSTGRES_PASSWORD: OLD, "other": "kept"}

    def test_two_rotations_have_two_passwords(self, place):
        assert opened(place).new != opened(place).new

    def test_vault_changed_meanwhile_is_refused(self, place):
        vault = opened(place)
        vault.check_unchanged()
        write(place, CLEAR + "more: x\n")
        with pytest.raises(ConfigError, match="changed by somebody else"):
            vault.check_unchanged()
        with pytest.raises(ConfigError, match="changed by somebody else"):
            vault.prepare()
        assert "more" in entries(place)

    def test_form_that_cannot_be_changed_is_refused_at_once(self, place):
        write(place, f"x: &a '{OLD}'\n{POSTGRES_PASSWORD}: &b '{OLD}'\ny: *b\n")
        before = read(place)
        with pytest.raises(ConfigError, match="cannot be set"):
            opened(place)
        assert read(place) == before

    def test_vault_of_single_encrypted_values_is_refused(self, place):
        (place / "vault.yml").write_text(f"{POSTGRES_PASSWORD}: !vault |\n  $ANSIBLE_VAULT;1.1\n")
        with pytest.raises(ConfigError, match="not encrypted as a whole"):
            opened(place)

    @pytest.mark.parametrize(
        ("clear", "left"),
        [
            ("a: '1'\nb: '2'\n", "b: '2'\n"),
            ("b: '2'\na: '1'", "b: '2'\n"),
            ("b: '2'\na: |\n  1\n  2\n# end\n", "b: '2'\n# end\n"),
            ("b: '2'\na: '1' # why\nc: x\n", "b: '2'\nc: x\n"),
        ],
    )
    def test_an_entry_is_removed_and_the_rest_stays(self, place, clear, left):
        write(place, clear)
        document = editing.open_document(hosts_file.load(place / "hosts.yaml").vault)
        assert without_entry(document, "a") == left

    def test_an_entry_that_shares_its_line_is_not_removed(self, place):
        write(place, "{a: '1', b: '2'}\n")
        document = editing.open_document(hosts_file.load(place / "hosts.yaml").vault)
        with pytest.raises(ConfigError, match="a cannot be removed"):
            without_entry(document, "a")


class TestSql:
    def test_no_secret_is_in_the_arguments(self):
        command = postgres.run_sql("c1", "o'brien", "nocodb", "SELECT 'x'", ["geheim", "two"])
        assert command.stdin == b"SELECT 'x'\ngeheim\ntwo\n"
        assert "geheim" not in command.script
        assert "-e 'PGUSER=o'\"'\"'brien'" in command.script

    def run(self, tmp_path: Path, wants: str, passwords: list[str]) -> tuple[int, list[str]]:
        """The real script, with a docker that runs it here and a psql that wants a password."""
        (tmp_path / "docker").write_text(
            '#!/bin/sh\nwhile [ "$1" != c1 ]; do shift; done; shift; exec "$@"\n'
        )
        (tmp_path / "psql").write_text(
            f'#!/bin/sh\n[ "${{PGPASSWORD-}}" = "{wants}" ] || {{ echo refused >&2; exit 2; }}\n'
            "case $1 in -XAtqwc) ;; *) cat ;; esac\n"
        )
        for name in ("docker", "psql"):
            (tmp_path / name).chmod(0o755)
        command = postgres.run_sql("c1", "u", "d", "SELECT 1;", passwords)
        done = subprocess.run(
            ["sh", "-c", command.script],
            input=command.stdin,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            check=False,
        )
        return done.returncode, done.stdout.decode().splitlines()

    def test_password_is_used_only_where_one_is_asked_for(self, tmp_path):
        asked = "swarmkeep: asked for a password"
        assert self.run(tmp_path, "", ["one"]) == (0, ["SELECT 1;"])
        assert self.run(tmp_path, "two", ["one", "two"]) == (0, [asked, "SELECT 1;"])
        assert self.run(tmp_path, "three", ["one", "two"])[0] != 0


class Killed(BaseException):
    """The client is gone: nothing that it still tries has an effect."""


@dataclass
class World:
    """App, database and vault, and a client that is lost at its n-th step.

    Like Swarm, it puts the app's old version back when the new one's password is refused.
    """

    place: Path
    app: str = ""
    before: str = ""
    known: dict[str, str] = field(default_factory=dict)
    """Docker's secrets: password by version."""
    database: str = field(default_factory=lambda: scram.verifier(OLD))
    steps: int = 0
    fails_at: int = -1
    fails_with: Callable[[], BaseException] = Killed
    fails_after: bool = False
    """Whether the step that fails has had its effect: an answer that got lost."""
    broken: bool = False
    """Whether the new version never comes up, whatever its password."""
    removed: str = ""
    said: list[str] = field(default_factory=list)
    audited: list[str] = field(default_factory=list)

    def step(self, effect: Callable[[], Any], *, local: bool = False) -> Any:
        """One thing the client does outside itself. Of a local one it knows whether it failed."""
        number, self.steps = self.steps, self.steps + 1
        dead = self.fails_with is Killed and number > self.fails_at >= 0
        unharmed = self.fails_after and (self.fails_with is Killed or not local)
        if dead or (number == self.fails_at and not unharmed):
            raise self.fails_with()
        result = effect()
        if number == self.fails_at:
            raise self.fails_with()
        return result

    def cluster(self) -> Any:
        template = clusters.spec(secret=self.app)
        app = clusters.service("appstack_nocodb", template=template)
        db = clusters.service()
        tasks = (clusters.task(app, node_id="id-app1"), clusters.task(db))
        versions = tuple(SecretVersion(n, "appstack_nocodb_database") for n in self.known)
        return clusters.cluster((app, db), tasks, secrets=versions)

    def works(self, version: str) -> bool:
        return scram.accepts(self.database, "nocodb", self.known[version])

    def settle(self) -> None:
        """What Swarm does by itself: it goes back to what ran before a version that fails."""
        if not self.works(self.app) and self.before:
            self.app, self.before = self.before, ""

    def change(self, script: str, stdin: bytes = b"") -> Result:
        def effect() -> Result:
            if script == ":\n":
                return Result("manager1", 0, "", "")
            if "docker stack deploy" not in script:
                self.removed, self.audited = script, [*self.audited, script]
                return Result("manager1", 0, "kept\n", "")
            *made, compose = (base64.b64decode(line).decode() for line in stdin.splitlines())
            name = next(
                w
                for w in compose.replace('"', " ").split()
                if w.startswith("appstack_nocodb_database_")
            )
            for content in made:
                self.known[name] = json.loads(content)["connection"]["password"]
            self.app, self.before = name, self.app if self.app != name else self.before
            return Result("manager1", 0, "", "")

        return self.step(effect)

    def converge(self, wanted: stacks.Wanted) -> Any:
        def effect() -> Any:
            self.settle()
            (secret,) = wanted.secrets
            if self.app != secret.version.name or self.broken:
                self.app, self.before = self.before or self.app, ""
                raise SwarmkeepError("appstack_nocodb: the update was rolled back")
            return self.cluster()

        return self.step(effect)

    def role(self) -> Any:
        def change(verifier: str) -> None:
            self.database = verifier

        return SimpleNamespace(
            user="nocodb",
            asked=False,
            kept=lambda: self.step(lambda: self.database),
            rehearse=lambda verifier: self.step(lambda: None),
            change=lambda verifier: self.step(lambda: change(verifier)),
        )

    def rotate(self, **trouble: Any) -> None:
        """One run of the command, with trouble in it."""
        self.steps, self.fails_at, self.fails_with, self.fails_after = 0, -1, Killed, False
        for name, value in trouble.items():
            setattr(self, name, value)
        inventory = hosts_file.load(self.place / "hosts.yaml")
        fleet = SimpleNamespace(inventory=inventory, dry=False)
        options = Options("secrets.rotate", Origin("ann@desk", "abc"))
        vault = RotatingVault(inventory.vault)
        app = RotatingApp(inventory)
        rotation.Rotation(fleet, app, vault, options, self.said.append).run()  # type: ignore[arg-type]

    def passwords(self) -> set[str]:
        """The app's password, and the vault's that counts."""
        self.settle()
        return {self.known[self.app], entries(self.place)[POSTGRES_PASSWORD]}


@pytest.fixture
def world(place: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    inventory = hosts_file.load(place / "hosts.yaml")
    (secret,) = stacks.application(inventory, load(inventory.vault)).secrets
    world = World(place, app=secret.version.name, known={secret.version.name: OLD})
    manager = SimpleNamespace(name="manager1")

    class Held:
        """The lock's lease."""

        output: dict[str, str] = {}  # noqa: RUF012
        change = staticmethod(world.change)

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.manager = manager

        def __enter__(self) -> Held:
            return world.step(lambda: self)

        def __exit__(self, *error: object) -> None: ...

        def finish(self, script: str, stdin: bytes = b"") -> None:
            world.audited.append(script)

        release = finish

    def look(fleet: Any, wanted: Any) -> Any:
        return rotation.Look(manager, world.cluster(), {})  # type: ignore[arg-type]

    save = editing.Document.save

    def fake(name: str, effect: Callable[..., Any]) -> None:
        monkeypatch.setattr(rotation, name, effect)

    fake("look", look)
    fake("observe", lambda manager, seen=None: world.step(world.cluster))
    fake("make_plan", lambda *args, **rest: SimpleNamespace(changes=False))
    fake("await_stack", lambda look, wanted, before, **rest: world.converge(wanted))
    monkeypatch.setattr(
        rotating_app, "observe", lambda manager, seen=None: world.step(world.cluster)
    )
    monkeypatch.setattr(rotating_app, "await_works", lambda *args: "works")
    monkeypatch.setattr(deploy_lock, "held", Held)
    monkeypatch.setattr(rotation, "parse_sections", lambda *args: world.cluster())
    monkeypatch.setattr(role_password, "find", lambda *args: world.role())
    monkeypatch.setattr(
        editing.Document,
        "save",
        lambda self, clear: world.step(lambda: save(self, clear), local=True),
    )
    # Hardening the vault's key takes most of the time, and is not what is looked at here.
    monkeypatch.setattr(encryption, "_ROUNDS", 1)
    write(place, CLEAR)
    return world


def is_through(world: World) -> bool:
    """App, database and vault have one new password, and nothing else is left."""
    (password,) = world.passwords()
    assert password != OLD
    assert set(entries(world.place)) == {POSTGRES_PASSWORD, "other"}
    assert NEXT not in read(world.place)
    return world.works(world.app)


def count_steps(world: World) -> int:
    world.rotate()
    assert is_through(world)
    return world.steps


# Of one rotation without trouble; the first test counts them.
STEPS = 12


class TestOrder:
    def test_without_trouble(self, world):
        old = world.app
        assert count_steps(world) == STEPS
        assert f"{world.place}/vault.yml: the new password is kept as {NEXT}" in world.said
        assert f"secret {old}: removed" in world.said
        assert old in world.removed
        (line,) = world.audited
        assert '"outcome": "ok"' in line
        assert "role nocodb: has the new password" in line

    def test_no_secret_in_what_is_said_and_recorded(self, world):
        world.rotate()
        text = "\n".join(world.said + world.audited)
        for password in {OLD, *world.passwords()}:
            assert password not in text
        assert "SCRAM" not in text

    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("at", range(STEPS))
    def test_client_killed_at_every_step(self, world, at, after):
        with pytest.raises(Killed):
            world.rotate(fails_at=at, fails_after=after)
        world.settle()
        assert world.works(world.app), "the app is shut out of its database"
        # Both are in the vault for as long as it is open which one the database has.
        found = entries(world.place)
        assert any(scram.accepts(world.database, "nocodb", p) for p in found.values())
        for path in world.place.glob(".vault.yml.*"):
            raise AssertionError(path)
        world.rotate()
        assert is_through(world)

    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("at", range(STEPS))
    def test_failure_at_every_step(self, world, at, after):
        with pytest.raises(SwarmkeepError, match="disk full") as caught:
            world.rotate(
                fails_at=at, fails_after=after, fails_with=lambda: SwarmkeepError("disk full")
            )
        assert "going back to the old password failed" not in caught.value.message
        assert len(world.passwords()) == 1
        assert world.works(world.app)
        world.rotate()
        assert is_through(world)

    @pytest.mark.parametrize(
        ("error", "after"),
        [(UnreachableError, True), (LockLostError, False), (KeyboardInterrupt, False)],
    )
    @pytest.mark.parametrize("at", range(STEPS))
    def test_connection_or_lock_lost_at_every_step(self, world, at, error, after):
        with pytest.raises(error):
            world.rotate(fails_at=at, fails_after=after, fails_with=lambda: error("gone"))
        world.settle()
        assert world.works(world.app)
        world.rotate()
        assert is_through(world)

    @pytest.mark.parametrize("first", range(3, STEPS))
    @pytest.mark.parametrize("second", [3, 6])
    def test_killed_twice(self, world, first, second):
        for at in (first, second):
            with pytest.raises(Killed):
                world.rotate(fails_at=at)
            world.settle()
            assert world.works(world.app)
        world.rotate()
        assert is_through(world)

    def test_new_version_that_never_comes_up(self, world):
        with pytest.raises(SwarmkeepError, match="was rolled back"):
            world.rotate(broken=True)
        assert world.passwords() == {OLD}
        assert world.works(world.app)
        assert entries(world.place) == {POSTGRES_PASSWORD: OLD, "other": "kept"}
        assert "the old password is in force again" in world.said[-1]
        assert '"outcome": "failed"' in world.audited[-1]

    def test_failure_while_going_back_is_told_and_a_second_run_finishes(self, world):
        world.broken = True
        for at in range(STEPS - 2, STEPS + 4):
            with pytest.raises(SwarmkeepError) as caught:
                world.rotate(fails_at=at, fails_with=lambda: SwarmkeepError("cut off"))
            if "going back to the old password failed: cut off" in caught.value.message:
                break
        else:
            raise AssertionError("no step was one of going back")
        assert "run it again" in caught.value.hint
        world.rotate(broken=False)
        assert is_through(world)


class TestRefusals:
    def unchanged(self, world: World, said: str) -> SwarmkeepError:
        before = (world.app, world.database, read(world.place))
        with pytest.raises(SwarmkeepError, match=said) as caught:
            world.rotate()
        assert (world.app, world.database, read(world.place)) == before
        assert caught.value.hint
        return caught.value

    def test_database_with_another_password(self, world):
        world.database = scram.verifier("changed by hand")
        error = self.unchanged(world, "the password of nocodb is not the one in")
        assert "git pull" in error.hint

    def test_app_that_would_be_changed_by_a_deploy(self, world, monkeypatch):
        monkeypatch.setattr(
            rotation, "make_plan", lambda *args, **rest: SimpleNamespace(changes=True)
        )  # fmt: skip
        assert "inv plan" in self.unchanged(world, "changes the password and nothing else").hint

    def test_app_that_does_not_run(self, world):
        cluster = world.cluster
        world.cluster = (
            lambda: replace(  # type: ignore[method-assign]
                cluster(), tasks=cluster().tasks[1:]
            )
        )
        assert "inv status" in self.unchanged(world, "does not run as it should").hint

    def test_app_that_is_not_there(self, world):
        cluster = world.cluster
        world.cluster = (
            lambda: replace(  # type: ignore[method-assign]
                cluster(), services=cluster().services[1:]
            )
        )
        assert "inv deploy-app" in self.unchanged(world, "is not as hosts.yaml").hint

    def test_database_that_does_not_run(self):
        fleet = SimpleNamespace(
            inventory=SimpleNamespace(postgres=SimpleNamespace(service="dbstack_root_db"))
        )
        with pytest.raises(SwarmkeepError, match="has no running task"):
            role_password.find(fleet, clusters.cluster(), [Secret("x")])  # type: ignore[arg-type]
