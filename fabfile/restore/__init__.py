"""Bringing data back: a set into a database, a database into the live one's place, everything onto
an empty host; the app stopped meanwhile.
"""
