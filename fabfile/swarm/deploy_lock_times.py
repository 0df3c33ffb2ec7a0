"""How long things take, or may take, about the deploy lock. All in seconds."""

LEASE_SECONDS = 60
"""Without a sign of life for so long, a holder is dead."""
BEAT_SECONDS = 15.0
"""A holder gives a sign of life so often."""
CHANGE_SECONDS = 40
"""How long one guarded change may run: its mark is younger than a lease when it ends."""
POLL_SECONDS = 1.0
"""Who waits for the lock looks so often."""
