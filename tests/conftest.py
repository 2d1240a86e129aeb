"""Eight virtual devices, shapes checked at run time, strict dtype promotion, and one cache of compiled programs."""

import gc
import importlib.metadata
import itertools
import logging
import os
import shutil
import sys
import tempfile

# Many processes import the package: compile its modules once, even where the environment forbids it.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # The models are small: most of the time goes into compiling them.
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        # Compiles four times as fast; later versions of jaxlib do not have the flag.
        *["--xla_cpu_use_fusion_emitters=false"] * importlib.metadata.version("jaxlib").startswith("0.10."),
    ]
)

# All processes of a run share their compiled programs: test workers, and the commands that tests start. The workers
# inherit the folder from the first process, which removes it at the end.
CREATED = None if "JAX_COMPILATION_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="deberta_jax_programs_")
if CREATED:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CREATED
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtyping import install_import_hook

# Installed before any module of the package is imported, so that every call checks shapes and types.
hook = install_import_hook("deberta_jax", "beartype.beartype")

import hypothesis
import jax
import jaxtyping
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
# Machines differ in speed: a slow example is no failure.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")
# A worker holds millions of objects of traced programs, so each complete collection takes seconds.
gc.set_threshold(100_000, 50, 1000)

SHARED = Path(__file__).resolve().parents[2] / "shared"
MAPS = Path("/proc/self/maps")
FINISHED = itertools.count(1)


def pytest_unconfigure() -> None:
    if CREATED:
        shutil.rmtree(CREATED, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not SHARED.is_dir():
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(pytest.mark.skip(reason="no reference data beside this checkout"))


def pytest_runtest_setup() -> None:
    """Commands called in this process change the package's loggers: each test finds them as logging creates them."""
    for name in ["deberta_jax", *logging.Logger.manager.loggerDict]:
        if name.partition(".")[0] == "deberta_jax":
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate, logger.disabled = [], True, False
            logger.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def limited_programs() -> Iterator[None]:
    """Drop compiled programs before their memory regions reach the limit of Linux, 65,530, where LLVM aborts."""
    yield
    if next(FINISHED) % 20 == 0 and MAPS.exists() and len(MAPS.read_bytes().splitlines()) > 25_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A unigram tokenizer with a small vocabulary; some folders of tests have another one."""
    from toy_tokenizers import write_unigram

    return write_unigram(tmp_path_factory.mktemp("unigram"))


@pytest.fixture(scope="session")
def page_models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Toy models under the names of the released models that the pages load."""
    from page_models import write_models

    return write_models(tmp_path_factory.mktemp("page_models"))


@pytest.fixture
def writable_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty mock hub that accepts uploads with the token of the environment."""
    from mock_hub import serving

    with serving({}) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        hub.new_repositories = tmp_path / "hub"
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub


@pytest.fixture
def tpu_devices():
    """The devices of a TPU topology such as `v5e:2x2`, to compile for without a TPU (extra `tpu`)."""
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
def unchecked_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shapes in signatures are not checked, as for users: the package itself must refuse other shapes."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def shared() -> Path:
    """The folder of reference data beside the checkout."""
    return SHARED
