"""For all tests: property tests try the same examples every time.

HYPOTHESIS_PROFILE=explore looks for new ones.
"""

import os

from hypothesis import HealthCheck, settings

# Sharing a machine with the lab, an example may take long; that is no failure.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
