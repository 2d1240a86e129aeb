"""The public names of `deberta_jax`, and the cost of importing it."""

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import deberta_jax

SOURCE = Path(deberta_jax.__file__)
API = Path(__file__).parents[1] / "docs/api.md"

MEASURE = """
import json, sys, time
before = time.perf_counter()
import deberta_jax
print(json.dumps([time.perf_counter() - before, "jax" in sys.modules]))
"""

USE = "import deberta_jax; [getattr(deberta_jax, name) for name in deberta_jax.__all__]"


def run(program: str, **environment: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment).stdout


def test_import_takes_less_than_two_seconds_and_does_not_import_jax():
    seconds, with_jax = min(json.loads(run(MEASURE)) for _ in range(2))
    assert seconds < 2
    assert not with_jax


def test_no_public_name_touches_a_device():
    # JAX fails as soon as it looks for a device of a platform that is not there.
    run(USE, JAX_PLATFORMS="none_such")
    with pytest.raises(subprocess.CalledProcessError):
        run("import jax; jax.devices()", JAX_PLATFORMS="none_such")


@pytest.mark.parametrize("name", deberta_jax.__all__)
def test_each_public_name_exists_and_has_a_docstring(name):
    value = getattr(deberta_jax, name)
    assert name in ("PRESETS", "__version__") or inspect.getdoc(value)


def test_the_api_page_has_an_entry_for_each_public_name():
    blocks = re.findall(r"^```\{public-names\}\n(.*?)^```$", API.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert sorted(" ".join(blocks).split()) == sorted(deberta_jax.__all__)


def test_the_module_table_the_types_and_all_have_the_same_names():
    modules = {name: f"deberta_jax.{module}" for name, module in deberta_jax._MODULES.items()}
    imported = {
        alias.name: statement.module
        for statement in ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8")))
        if isinstance(statement, ast.ImportFrom) and statement.module.startswith("deberta_jax")
        for alias in statement.names
    }
    assert imported == modules
    assert sorted([*modules, "__version__"]) == sorted(deberta_jax.__all__) == sorted(dir(deberta_jax))


def test_a_public_name_is_defined_where_the_table_says():
    for name, module in deberta_jax._MODULES.items():
        value = getattr(deberta_jax, name)
        if callable(value):
            assert inspect.unwrap(value).__module__ == f"deberta_jax.{module}"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'DebertaV4'"):
        deberta_jax.DebertaV4  # noqa: B018


def test_every_module_imports_on_its_own():
    for path in sorted(SOURCE.parent.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent.parent).with_suffix("").parts
        importlib.import_module(".".join(part for part in parts if part != "__init__"))
