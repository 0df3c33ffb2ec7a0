"""Facts about hosts, and verdicts on this machine, on each host and on the Swarm."""
