"""Backup sets in the bucket and the scripts on hosts that make them: names of objects, finding the
newest, verifying, reading whole, selecting, retention, deleting; installing on hosts.
"""
