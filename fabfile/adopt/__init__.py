"""A NocoDB that runs already, taken over: looked at, rehearsed, moved, compared, undone."""
