"""How long `inv --list` takes, against an empty Invoke collection: medians, side by side.

Run as `make bench-startup`. Goal: at most 1.5 times the empty collection.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.progress import in_turn

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 21
GOAL = 1.5
EMPTY = "from invoke.collection import Collection\n\nnamespace = Collection()\n"


def seconds(folder: Path) -> float:
    """Time one `inv --list` in a folder, in seconds."""
    start = time.perf_counter()
    # An empty collection has nothing to list, which is exit code 1.
    subprocess.run(
        [sys.executable, "-m", "invoke", "--list"], cwd=folder, capture_output=True, check=False
    )
    return time.perf_counter() - start


def main() -> int:
    """Print both medians and their ratio; exit code 1 if it is over the goal."""
    with tempfile.TemporaryDirectory() as name:
        empty = Path(name)
        (empty / "tasks.py").write_text(EMPTY)
        pairs = [(seconds(empty), seconds(ROOT)) for _ in in_turn(range(ROUNDS), "inv --list")]
    nothing = statistics.median(pair[0] for pair in pairs)
    ours = statistics.median(pair[1] for pair in pairs)
    print(f"empty collection  {nothing * 1000:6.0f} ms")
    print(f"swarmkeep         {ours * 1000:6.0f} ms")
    print(f"ratio             {ours / nothing:6.2f}   (goal: at most {GOAL})")
    return int(ours / nothing > GOAL)


if __name__ == "__main__":
    sys.exit(main())
