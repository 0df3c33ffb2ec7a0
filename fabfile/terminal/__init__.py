"""What commands share at the terminal: errors and exit codes, tables, progress, the dialogs of
deploy, restore and verify. Only here and in commands/ is anything printed.
"""
