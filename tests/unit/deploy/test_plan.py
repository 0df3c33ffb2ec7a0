"""What a deploy would change, judged against what real Docker made of real compose files."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fabfile.deploy import plan, stacks
from fabfile.deploy.plan import Plan, ServicePlan
from fabfile.deploy.service_spec import specification
from fabfile.deploy.stacks import Wanted
from fabfile.swarm import docker_commands
from fabfile.swarm.placement import LabelChange
from fabfile.swarm.state import Cluster, Service
from fabfile.swarm.state_reading import _service
from tests.unit.clusters import cluster
from tests.unit.deploy.test_stacks import Vault, inventory

DATA = Path(__file__).parents[1] / "data"


def service(spec: dict[str, Any]) -> Service:
    inspected = {"ID": spec["Name"], "Spec": spec}
    return _service(inspected)


@pytest.fixture(scope="module")
def everything() -> tuple[Wanted, Cluster]:
    """A compose file with many settings, and what Docker 20.10 showed after deploying it."""
    compose = yaml.safe_load((DATA / "everything.yml").read_text())
    live = json.loads((DATA / "everything-20.10.json").read_text())
    there = cluster(tuple(service(spec) for spec in live["services"]), networks=live["networks"])
    return Wanted("everything", "app", "image", compose, (), ()), there


def made(wanted: Wanted, there: Cluster, *labels: LabelChange, **options: Any) -> Plan:
    settings = {"network": "backend", "resolve_image": "changed", "prune": False} | options
    return plan.make(wanted, there, labels, **settings)


def changed(wanted: Wanted, name: str, **keys: Any) -> Wanted:
    """The same stack with some keys of one service set (None removes one)."""
    compose = copy.deepcopy(wanted.compose)
    for key, value in keys.items():
        *path, last = key.split("__")
        place = compose["services"][name]
        for step in path:
            place = place.setdefault(step, {})
        place[last] = value
    return replace(wanted, compose=compose)


def one(result: Plan, name: str) -> ServicePlan:
    return next(s for s in result.services if s.name == name)


def shown(service_plan: ServicePlan) -> dict[str, tuple[str | None, str | None]]:
    return {field.name: (field.old, field.new) for field in service_plan.fields}


def test_what_docker_made_of_it_is_unchanged(everything):
    result = made(*everything)
    assert [(s.name, s.fields, s.unknown) for s in result.services] == [
        ("everything_many", (), ()),
        ("everything_few", (), ()),
        ("everything_plain", (), ()),
    ]
    assert not result.changes


def test_order_of_services_and_settings_does_not_matter(everything):
    wanted, there = everything

    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(item) for key, item in reversed(value.items())}
        return value

    compose = turned(wanted.compose)
    for key in ("environment", "ports", "volumes", "configs", "cap_add"):
        compose["services"]["many"][key] = compose["services"]["many"][key][::-1]
    result = made(replace(wanted, compose=compose), there)
    assert [s.fields for s in result.services] == [(), (), ()]


def test_mounts_in_another_order_restart_the_tasks_of_an_update_but_make_none(everything):
    # `docker service update` sorts them; Swarm compares lists as they are.
    wanted, there = everything
    many = copy.deepcopy(there.service("everything_many").spec)
    many["TaskTemplate"]["ContainerSpec"]["Mounts"].reverse()
    services = tuple(service(many) if s.name == many["Name"] else s for s in there.services)
    there = replace(there, services=services)
    assert not made(wanted, there).changes
    relabelled = changed(wanted, "many", deploy__labels=["x=2"])
    assert one(made(relabelled, there), "everything_many").restarts
    # Docker is given every service, also those in which nothing else has changed.
    beside = made(changed(wanted, "few", deploy__labels=["x=2"]), there)
    assert not one(beside, "everything_few").restarts
    assert one(beside, "everything_many") == ServicePlan("everything_many", "update", restarts=True)
    assert beside.interrupts == ("everything_many",)


# One changed setting, and the one field in which it must show.
CHANGES = [
    ("image", "other:2", "image", "other:2", True),
    ("environment", ["B=2", "A=x=z", "EMPTY="], "environment.A", "x=z", True),
    ("environment", ["B=2", "A=x=y"], "environment.EMPTY", None, True),
    ("command", "sleep 5", "command", "sleep 5", True),
    ("entrypoint", ["bash", "-c"], "entrypoint", "bash -c", True),
    ("user", "1001", "container.User", "1001", True),
    ("init", False, "container.Init", "False", True),
    ("stop_grace_period", "2m", "stop_grace_period", "120s", True),
    ("cap_add", ["NET_ADMIN"], "container.CapabilityAdd", "CAP_NET_ADMIN", True),
    ("labels", {"a.b": "2"}, "labels.a.b", "2", True),
    ("sysctls", {"net.core.somaxconn": 5}, "container.Sysctls.net.core.somaxconn", "5", True),
    ("healthcheck", {"test": ["CMD", "x"]}, "healthcheck.Test", "CMD x", True),
    ("networks", {"default": {"aliases": ["other", "more"]}}, "networks.backend", None, True),
    ("ports", ["8099:80", "9000/udp"], "ports.81/tcp to 8098", None, True),
    ("configs", [{"source": "c1", "target": "/etc/other", "mode": 256, "uid": "5"}],
     "configs.c1", None, True),
    ("deploy__replicas", 3, "replicas", "3", False),
    ("deploy__labels", ["x=2"], "deploy.labels.x", "2", False),
    ("deploy__placement__constraints", ["node.role == worker"], "placement.Constraints",
     '"node.role == worker"', False),
    ("deploy__resources__limits__memory", "1G", "resources.Limits.MemoryBytes", "1073741824", True),
    ("deploy__restart_policy__max_attempts", 4, "restart_policy.MaxAttempts", "4", True),
    ("deploy__update_config__parallelism", 2, "update_config.Parallelism", "2", False),
    ("deploy__update_config__order", "stop-first", "update_config.Order", "stop-first", False),
    ("deploy__endpoint_mode", "dnsrr", "endpoint_mode", "dnsrr", True),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "field", "new", "restarts"), CHANGES)
def test_each_change_shows_in_its_own_field_only(everything, key, value, field, new, restarts):
    wanted, there = everything
    found = one(made(changed(wanted, "many", **{key: value}), there), "everything_many")
    fields = shown(found)
    assert list(fields) == [field]
    assert fields[field][1] == new
    assert fields[field][0] != new
    assert found.action == "update"
    assert found.restarts is restarts


@pytest.mark.parametrize(
    ("key", "value", "unknown"),
    [
        ("credential_spec", {"other": "x"}, "credential_spec"),
        ("env_file", ".env", "env_file"),
        ("environment", ["FROM_THE_MANAGER"], "environment.FROM_THE_MANAGER"),
        ("volumes", ["./data:/data"], "volumes./data.Source"),
        ("ports", ["8000-8010:80-81"], "ports"),
        ("secrets", ["not-declared"], "secrets"),
        ("stop_grace_period", "soon", "stop_grace_period"),
        ("deploy__rollback_config__new_key", 1, "deploy.rollback_config.new_key"),
        ("healthcheck__new_key", 1, "healthcheck.new_key"),
        ("networks", {"backend": {"new_key": "10.0.0.9"}}, "networks"),
    ],
)
def test_what_cannot_be_compared_is_named_and_counts_as_changed(everything, key, value, unknown):
    wanted, there = everything
    found = one(made(changed(wanted, "plain", **{key: value}), there), "everything_plain")
    assert unknown in found.unknown
    assert found.action == "update"
    assert found.restarts


def test_a_setting_made_by_hand_shows_even_if_no_compose_key_names_it(everything):
    wanted, there = everything
    few = copy.deepcopy(there.service("everything_few").spec)
    few["TaskTemplate"]["ContainerSpec"]["OomScoreAdj"] = 500
    services = tuple(service(few) if s.name == few["Name"] else s for s in there.services)
    found = one(made(wanted, replace(there, services=services)), "everything_few")
    assert shown(found) == {"container.OomScoreAdj": ("500", None)}


def test_services_missing_and_left_over(everything):
    wanted, there = everything
    compose = copy.deepcopy(wanted.compose)
    del compose["services"]["few"]
    less = replace(wanted, compose=compose)
    there = replace(there, services=tuple(s for s in there.services if "plain" not in s.name))
    result = made(less, there)
    assert one(result, "everything_plain").action == "create"
    assert not one(result, "everything_plain").restarts
    assert one(result, "everything_few").action == "left"
    assert result.removes == ()
    assert made(less, there, prune=True).removes == ("everything_few",)


def test_left_over_services_alone_are_nothing_to_do(everything):
    wanted, there = everything
    compose = {**wanted.compose, "services": {"many": wanted.compose["services"]["many"]}}
    assert not made(replace(wanted, compose=compose), there).changes
    assert made(replace(wanted, compose=compose), there, prune=True).changes


class TestImages:
    """Docker resolves a tag to a digest when the compose file names another image."""

    def there(self, everything, image: str, label: str) -> Cluster:
        spec = copy.deepcopy(everything[1].service("everything_plain").spec)
        spec["TaskTemplate"]["ContainerSpec"]["Image"] = image
        spec["Labels"][docker_commands.IMAGE_LABEL] = label
        if "@" in image:
            # Docker's client has asked a registry, and noted this too.
            platforms = [{"Architecture": "amd64", "OS": "linux"}]
            spec["TaskTemplate"].setdefault("Placement", {})["Platforms"] = platforms
        return cluster((service(spec),), networks=everything[1].networks)

    def plan(self, everything, image: str, label: str, **options: Any) -> Plan:
        compose = everything[0].compose
        services = {"plain": {"image": "app:1", "deploy": {"replicas": 0}}}
        wanted = replace(everything[0], compose={**compose, "services": services})
        return made(wanted, self.there(everything, image, label), **options)

    def test_digest_of_the_same_image_is_no_change(self, everything):
        assert not self.plan(everything, "app:1@sha256:aa", "app:1").changes

    def test_pinned_by_a_rollback_and_now_by_tag_is_a_change(self, everything):
        result = self.plan(everything, "app:1@sha256:aa", "app:1@sha256:aa")
        assert shown(result.services[0]) == {"image": ("app:1@sha256:aa", "app:1")}
        assert result.resolve_image == "changed"

    def test_image_changed_by_hand_must_be_resolved_anew(self, everything):
        # `docker stack deploy` alone would keep it: its label says that nothing is new.
        result = self.plan(everything, "evil:1", "app:1")
        assert shown(result.services[0]) == {"image": ("evil:1", "app:1")}
        assert result.resolve_image == "always"

    def test_a_stack_that_must_be_resolved_anew_asks_for_every_image_of_it(self, everything):
        many = everything[1].service("everything_many")
        there = self.there(everything, "evil:1", "app:1")
        there = replace(there, services=(many, *there.services))
        services = {
            "many": everything[0].compose["services"]["many"],
            "plain": {"image": "app:1", "deploy": {"replicas": 0}},
        }
        result = made(
            replace(everything[0], compose={**everything[0].compose, "services": services}), there
        )
        beside = one(result, "everything_many")
        assert (beside.action, beside.restarts) == ("update", True)
        assert "its digest is asked from the registry" in beside.unknown[0]

    def test_image_without_a_tag_is_what_docker_writes_down(self, everything):
        compose = everything[0].compose
        services = {"plain": {"image": "redis", "deploy": {"replicas": 0}}}
        wanted = replace(everything[0], compose={**compose, "services": services})
        there = self.there(everything, "redis:latest@sha256:aa", "redis")
        assert not made(wanted, there).changes

    @pytest.mark.parametrize("word", ["always", "changed", "never"])
    def test_the_deploy_asks_the_registry_as_the_plan_was_made(self, everything, word):
        assert self.plan(everything, "app:1", "app:1", resolve_image=word).resolve_image == word

    @pytest.mark.parametrize(
        ("image", "word", "told"),
        [
            ("app:1", "changed", True),
            ("app:1", "never", False),
            ("app:1@sha256:aa", "changed", False),
        ],
    )
    def test_image_that_could_not_be_pinned_is_told(self, everything, image, word, told):
        services = {"plain": {"image": "app:1", "deploy": {"replicas": 1}}}
        wanted = replace(everything[0], compose={**everything[0].compose, "services": services})
        there = self.there(everything, image, "app:1")
        result = made(wanted, there, resolve_image=word)
        assert result.deploys
        lines = plan.unpinned(wanted, result, there)
        assert [line.partition(":")[0] for line in lines] == (["everything_plain"] if told else [])

    def test_registry_asked_at_each_deploy_cannot_be_foreseen(self, everything):
        result = self.plan(everything, "app:1", "app:1", resolve_image="always")
        assert result.changes
        assert "digest" in result.services[0].unknown[0]


def test_own_stacks_of_the_repository_are_known_completely(tmp_path):
    inv = inventory(tmp_path, app={"public_url": "http://x.example.com"})
    for wanted in (stacks.database(inv, Vault()), stacks.application(inv, Vault())):
        result = made(wanted, cluster())
        assert [s.unknown for s in result.services] == [()]
        assert [s.action for s in result.services] == ["create"]
        assert result.secrets == tuple(s.version.base for s in wanted.secrets)


def test_another_secret_version_is_told_but_not_which(tmp_path):
    inv = inventory(tmp_path)
    wanted = stacks.database(inv, Vault())
    created = one(made(wanted, cluster()), "dbstack_root_db")
    secret = shown(created)["secrets.postgres_password"]
    assert secret == (None, "a version")
    assert wanted.secrets[0].version.name not in repr(created)


def test_a_secret_that_only_a_new_cluster_reads_is_told_as_such(tmp_path):
    """What is left of a rotation: PostgreSQL has the new password, the service names the old."""
    inv = inventory(tmp_path)
    old = stacks.database(inv, Vault())
    spec, _ = specification(old.compose, "root_db", old.name)
    there = service(spec)
    new = one(made(stacks.database(inv, Vault(password="new")), cluster((there,))), there.name)
    assert new.restarts
    assert "PostgreSQL reads this secret only when it makes a new cluster" in new.note
    changed = stacks.database(
        inventory(tmp_path, db={"endpoint_mode": "vip"}), Vault(password="new")
    )
    assert one(made(changed, cluster((there,))), there.name).note == ""


def test_network_and_labels_are_part_of_the_plan(everything):
    wanted, there = everything
    assert made(wanted, replace(there, network=None)).network == "backend"
    label = LabelChange("db1", {"role": "db"})
    result = made(wanted, there, label)
    assert result.changes
    assert not result.deploys
    assert not result.touches_database


def test_label_that_takes_the_database_off_its_node_touches_it(everything):
    wanted, there = everything
    gone = LabelChange("db1", {"role": "app"}, loses="db")
    assert made(wanted, there, gone).touches_database
    assert made(replace(wanted, role="db"), there, gone).interrupts == tuple(
        s.name for s in made(wanted, there).services
    )
