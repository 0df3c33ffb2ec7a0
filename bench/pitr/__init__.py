"""`make bench-pitr`: point-in-time recovery, measured in the lab."""
