"""How many examples: a few, always the same, with the other tests; 5,000 and more, new ones, by `make fuzz`."""

import os

from hypothesis import HealthCheck, settings

SUPPRESSED = list(HealthCheck)
settings.register_profile(
    "tests", max_examples=60, derandomize=True, database=None, deadline=None, suppress_health_check=SUPPRESSED
)
settings.register_profile(
    "fuzz", max_examples=5000, database=None, deadline=None, print_blob=True, suppress_health_check=SUPPRESSED
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))
