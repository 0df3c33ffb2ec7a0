"""What hosts.yaml says, as frozen data: the inventory, the file's reader, a project.

No I/O beyond reading that file.
"""
