"""Eight virtual devices, shapes checked at run time, strict dtype promotion."""

import importlib.metadata
import os

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # The models here are small: compiling them is what takes the time.
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        # Four times faster to compile; later versions know no such flag.
        *["--xla_cpu_use_fusion_emitters=false"] * importlib.metadata.version("jaxlib").startswith("0.10."),
    ]
)

from pathlib import Path

from jaxtyping import install_import_hook

# Before any module of the package is imported: its signatures are checked wherever a test calls them.
hook = install_import_hook("deberta_jax", "beartype.beartype")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not SHARED.is_dir():
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(pytest.mark.skip(reason="the reference data is not beside this checkout"))


@pytest.fixture
def shared() -> Path:
    """The folder of reference data beside the checkout."""
    return SHARED
