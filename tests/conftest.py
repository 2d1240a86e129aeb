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
def tpu_devices():
    """The devices of a topology such as `v5e:2x2`, to compile for, without one (extra `tpu`)."""
    os.environ.update(
        TPU_SKIP_MDS_QUERY="1",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
        TPU_ACCELERATOR_TYPE="v5litepod-4",
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_STDERR_LOG_LEVEL="3",
    )
    from jax.experimental import topologies

    return lambda name: list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)


@pytest.fixture
def shared() -> Path:
    """The folder of reference data beside the checkout."""
    return SHARED
