"""The commands people type: flags in, rooms called, text and an exit code out."""
