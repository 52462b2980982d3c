"""What all tests share."""

import gc
import os

from hypothesis import HealthCheck, settings

# A machine that does other work too must not fail a property for being slow; in CI, Hypothesis itself says the same.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if not os.environ.get("CI"):
    settings.load_profile("patient")

# Collecting the tests makes a few hundred thousand objects that stay: modules, functions, items. The collector walking
# through them again and again was a third of that time.
gc.set_threshold(20_000, 20, 20)
