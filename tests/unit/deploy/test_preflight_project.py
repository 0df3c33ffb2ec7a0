"""One project never takes what belongs to another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fabfile.base.errors import CONFIG, ConfigError
from fabfile.deploy import preflight_project, stacks
from fabfile.swarm.docker_commands import SecretVersion
from tests.unit.clusters import cluster, node, service
from tests.unit.deploy.test_stacks import Vault, inventory

OURS, OTHER = Vault(), Vault(key=b"another project's")


def there(tmp_path, vault, **changes):
    """Services of a project's two stacks, and the node that holds its data."""
    hosts = inventory(tmp_path, **changes)
    both = [make(hosts, vault) for make in (stacks.database, stacks.application)]
    label = both[0].project.label
    services = []
    for one in both:
        first = replace(service(one.services[0]), stack=one.name)
        first.spec["Labels"] = {"swarmkeep.project": label}
        services.append(first)
    labels = {f"swarmkeep.project.{both[0].name}": label}
    return tuple(services), replace(node("db1", "db"), labels=labels)


def check(tmp_path, services, nodes, take_over=False, secrets=(), **changes):
    hosts = inventory(tmp_path, **changes)
    wanted = stacks.database(hosts, OURS)
    seen = cluster(services, nodes=nodes, secrets=secrets)
    preflight_project.check_project(hosts, wanted, seen, take_over=take_over)


def refused(*args, **changes) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        check(*args, **changes)
    assert caught.value.exit_code == CONFIG
    assert caught.value.hint
    return caught.value


def test_what_is_ours_or_nobodys_may_be_deployed(tmp_path):
    services, data = there(tmp_path, OURS)
    check(tmp_path, services, (data,))
    check(tmp_path, (), ())
    check(tmp_path, (service(),), (node("db1", "db"),))


def test_stacks_of_another_project_are_not_taken_unless_that_is_said(tmp_path):
    services, data = there(tmp_path, OTHER, project="theirs", stacks={"db": "dbstack"})
    for seen in ((services, ()), ((), (data,))):
        error = refused(tmp_path, *seen)
        assert "dbstack: belongs to project theirs" in error.message
        assert "--take-over" in error.hint
        check(tmp_path, *seen, take_over=True)


def test_two_projects_beside_each_other(tmp_path):
    services, data = there(tmp_path, OTHER, project="theirs")
    check(tmp_path, services, (data,))
    check(tmp_path, services, (data,), project="ours")


@pytest.mark.parametrize("name", ["", "same"])
def test_two_projects_of_one_name_are_refused(tmp_path, name):
    other = {"project": name, "stacks": {"db": "db2", "app": "app2"}}
    services, data = there(tmp_path, OTHER, **other)
    error = refused(tmp_path, services, (data,), project=name)
    assert "this Swarm has" in error.message
    assert "'project: NAME' in hosts.yaml" in error.hint


def test_a_renamed_stack_is_not_left_behind(tmp_path):
    services, data = there(tmp_path, OURS)
    for stack in ({"db": "db2", "app": "appstack"}, {"db": "dbstack", "app": "app2"}):
        error = refused(tmp_path, services, (data,), stacks=stack)
        assert "of this project runs on the Swarm" in error.message
        assert "stack rm" in error.hint


def test_stacks_that_are_gone_may_be_renamed(tmp_path):
    _, data = there(tmp_path, OURS)
    check(tmp_path, (), (data,), stacks={"db": "db2"})


def test_a_project_may_be_given_a_name(tmp_path):
    services, data = there(tmp_path, OURS)
    named = {"project": "prod", "stacks": {"db": "dbstack", "app": "appstack"}}
    check(tmp_path, services, (data,), **named)


class TestMadeByAnEarlierVersion:
    """Its one label says a stack's name and not whose it is."""

    DATA = (replace(node("db1", "db"), labels={"swarmkeep.pgdata": "dbstack"}),)

    def test_is_ours_where_the_names_are(self, tmp_path):
        check(tmp_path, (service(),), self.DATA)

    def test_beside_a_project_with_a_name(self, tmp_path):
        check(tmp_path, (), self.DATA, project="ours")

    def test_is_not_left_behind_by_a_new_name(self, tmp_path):
        """Which it is tells the secret's name: only our vault makes it."""
        made = stacks.database(inventory(tmp_path), OURS).secrets[0].version
        error = refused(tmp_path, (), self.DATA, project="ours", secrets=(made,))
        assert "the stack dbstack of this project runs" in error.message
        other = (SecretVersion("dbstack_postgres_password_00", "dbstack_postgres_password"),)
        check(tmp_path, (), self.DATA, project="ours", secrets=other)

    def test_and_a_second_project_without_a_name_is_refused(self, tmp_path):
        error = refused(tmp_path, (), self.DATA, stacks={"db": "db2"})
        assert "this Swarm has a database stack 'dbstack'" in error.message
        assert "set stacks.db back to dbstack" in error.hint
        assert "project: NAME" in error.hint
