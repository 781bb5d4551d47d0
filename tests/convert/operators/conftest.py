"""The same random numbers for a test, whichever tests ran before it in the same process."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def same_random_numbers(request: pytest.FixtureRequest) -> None:
    """Set the random generators of the test's module back."""
    for value in vars(request.module).values():
        if isinstance(value, np.random.Generator):
            value.bit_generator.state = np.random.default_rng(0).bit_generator.state
