"""Bare hosts to a Swarm, nodes out of work and back, logins to a registry."""
