#!/bin/bash
# How many labs the end-to-end tests run side by side: two more than there are cores, since each waits
# for a good part of its time, at most five, and no more than there is memory for (2 GB each). A lab that
# only waits takes a twentieth of a core.
set -euo pipefail
cores=$(nproc)
memory=$(awk '/^MemAvailable:/ { print int($2 / 2097152) }' /proc/meminfo)
workers=$((cores + 2))
((workers <= 5)) || workers=5
((workers <= memory)) || workers=$memory
((workers >= 1)) || workers=1
echo "$workers"
