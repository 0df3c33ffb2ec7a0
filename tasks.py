"""Entry point for inv and fab: the tree itself is in fabfile/__init__.py."""

from fabfile import namespace

__all__ = ["namespace"]
