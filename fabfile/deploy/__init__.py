"""From compose files to a running stack: the wanted stacks, the plan, the checks before,
the change, waiting for it, taking it back, releases.
"""
