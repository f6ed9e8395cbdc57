"""How many examples hypothesis tries: few and always the same in CI, many and new ones by hand.

``HYPOTHESIS_PROFILE=thorough pytest -n 0 tests/properties`` takes some minutes.
"""

from __future__ import annotations

import os
import tempfile

import pytest
from hypothesis import HealthCheck, configuration, settings

COMMON = {
    "deadline": None,  # a loaded machine is no fault; tests that bound time do it themselves
    "database": None,  # nothing is left in the repository
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
settings.register_profile("ci", derandomize=True, max_examples=30, **COMMON)
settings.register_profile("thorough", max_examples=2000, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session", autouse=True)
def _nothing_in_the_repository() -> None:
    configuration.set_hypothesis_home_dir(tempfile.mkdtemp(prefix="hypothesis-"))
