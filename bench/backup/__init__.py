"""`make bench-backup`: the backup script against the literal pipeline, side by side in the lab."""
