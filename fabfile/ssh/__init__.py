"""Hosts, and running commands on them: a fleet, one verified connection, one channel.

The only importer of fabric and paramiko. `fleet` is what other packages use.
"""
