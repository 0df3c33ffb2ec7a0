"""The encrypted file of secrets: its format, its password, reading, editing.

Only here is anything decrypted.
"""
