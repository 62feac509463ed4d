"""Settings that must stand before JAX starts: eight CPU devices, and no other platform."""

import os
import sys
from pathlib import Path

_DEVICES = "--xla_force_host_platform_device_count"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# With importlib's import mode pytest leaves sys.path alone; the tests import `helpers` by name.
sys.path.insert(0, str(Path(__file__).parent))
