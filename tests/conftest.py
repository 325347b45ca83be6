"""What every test needs: the repository on the path, no display, quiet backends, the same random numbers."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["MPLBACKEND"] = "Agg"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest
from hypothesis import settings

settings.register_profile("exact", derandomize=True, deadline=None, max_examples=100, database=None)
settings.load_profile("exact")


@pytest.fixture(autouse=True)
def same_numbers():
    """Each test starts from the same seed, alone or after others."""
    import keras  # here, since the process that hands out the tests need not wait for it

    keras.utils.set_random_seed(1)
