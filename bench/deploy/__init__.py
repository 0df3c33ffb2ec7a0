"""The same deploy by Swarmkeep, Ansible, pyinfra and plain ssh, timed side by side."""
