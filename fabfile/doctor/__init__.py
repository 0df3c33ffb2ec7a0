"""Facts about hosts, and verdicts on this machine, on each host and on the Swarm.

`facts.py` asks a host. `local_checks.py`, `host_checks.py` (with `wal_checks.py`) and
`swarm_checks.py` judge what was said; commands/doctor.py puts them together.
"""
