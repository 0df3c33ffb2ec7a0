"""The Swarm as a manager tells it, and what is kept in it: docker commands as text, state, labels,
convergence, the deploy lock, the audit log, whether the database and the app answer.
"""
