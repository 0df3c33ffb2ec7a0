"""A new database password, safe to interrupt."""
