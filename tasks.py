"""Entry point for inv: the command tree itself is in fabfile/__init__.py."""

import os
import sys

# Invoke turns the cache of compiled modules off. Compiling ours anew would cost every command a
# fifth of a second, so it is on again before the first of them is imported.
sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))

from fabfile import namespace  # noqa: E402

__all__ = ["namespace"]
