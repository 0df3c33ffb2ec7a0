"""The commands people type: each parses its flags, calls the rooms below, prints, and sets the exit code."""
