"""What is left of a stack, and the script that takes it away."""

from __future__ import annotations

from fabfile.deploy.stack_removal import has_remains, removal_script
from fabfile.swarm.docker_commands import SecretVersion
from tests.unit import clusters

URL = SecretVersion("kintostack_database_url_0123456789abcdef", "kintostack_database_url")
OTHER = SecretVersion("kintostack2_database_url_0123456789abcdef", "kintostack2_database_url")
LONGER = SecretVersion("kintostack_two_key_0123456789abcdef", "kintostack_two_key")
STACKS = ("kintostack", "kintostack2", "kintostack_two")


def test_after_a_removal_that_was_cut_off_something_is_left():
    """Its services are gone first: without them it is not all gone."""
    assert has_remains("kintostack", clusters.cluster(secrets=(URL,)), STACKS)
    assert not has_remains("kintostack", clusters.cluster(secrets=(OTHER, LONGER)), STACKS)
    assert not has_remains("kintostack", clusters.cluster(), STACKS)


def test_the_secrets_of_this_stack_go_and_no_others():
    script = removal_script("kintostack", clusters.cluster(secrets=(URL, OTHER, LONGER)), STACKS)
    assert URL.name in script
    assert OTHER.name not in script
    assert LONGER.name not in script
    assert "docker stack rm kintostack" in script
