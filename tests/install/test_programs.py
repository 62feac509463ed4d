"""JAX's own callbacks on callbax's runtime, through programs that compare callbax's with JAX's.

`CALLBAX_PARITY=installed pytest tests/parity` runs all of these; here are the main ones.
"""

import helpers
import pytest
from parity.test_errors import *  # noqa: F403 - collected here once more
from parity.test_remat import *  # noqa: F403
from parity.test_transformations import *  # noqa: F403
from parity.test_vmap import *  # noqa: F403

pytestmark = pytest.mark.sampled(12)


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    monkeypatch.setattr(helpers, "LIBRARIES", (helpers.JAX, helpers.INSTALLED))
