"""A whole Swarm with S3 on one machine: for trying, for `make demo`, for the end-to-end tests.

`lab.up` is what `inv lab.up` calls; `Lab` is what tests hold in their hands.
"""
