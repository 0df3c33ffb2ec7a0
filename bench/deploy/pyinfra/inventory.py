"""The hosts of the benchmark, for pyinfra."""

import os

_WORK = os.environ["BENCH_WORK"]
_SSH = {
    "ssh_config_file": f"{_WORK}/ssh_config",
    "ssh_strict_host_key_checking": "yes",
    "ssh_known_hosts_file": f"{_WORK}/known_hosts",
}

manager = (["manager1"], _SSH)
db = (["db1"], _SSH)
