"""The commands people type: flags in, text and an exit code out."""
