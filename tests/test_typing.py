"""Type checkers understand the public names, and give a loaded model the class of its head."""

import collections.abc
import inspect
import os
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import jax
import optax
import pytest

import deberta_jax

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests/typing_script.py"
# Beside the interpreter, or on the path.
BASEDPYRIGHT = shutil.which("basedpyright", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
CHECKERS = {"mypy": [sys.executable, "-m", "mypy"]}
if BASEDPYRIGHT:
    CHECKERS["basedpyright"] = [BASEDPYRIGHT, "--level", "error", "--pythonpath", sys.executable]
WRONG = """import deberta_jax as dj
model: dj.MaskedLM = dj.from_pretrained("x", head="question_answering")[0]
tokenizer: dj.Tokenizer = dj.from_pretrained("x", require_tokenizer=False)[1]
dj.from_pretrained("x", head="causal_lm")
"""
# Types of other packages, some of which contain Any.
FOREIGN = {*typing.get_args(jax.typing.DTypeLike), *typing.get_args(optax.OptState)}
PUBLIC = {name: getattr(deberta_jax, name) for name in deberta_jax.__all__}
BUILT_IN = {list, dict, tuple, set, frozenset, type}
GENERIC = BUILT_IN | {
    collections.abc.Callable,
    collections.abc.Collection,
    collections.abc.Iterable,
    collections.abc.Iterator,
}
GENERIC |= {collections.abc.Mapping, collections.abc.Sequence}
# `model(**batch)` passes the values of a batch to keywords of several types, which only Any allows.
EXCEPTION = "Batch.__getitem__, the result: Any"
CALLED = ("__init__", "__call__", "__getitem__")


def gaps(hint: object, names: dict[str, object]) -> Iterator[str]:
    """Where a type says nothing: Any, no annotation, or a generic type without its parameters."""
    if isinstance(hint, typing.ForwardRef):
        hint = hint.__forward_arg__
    if isinstance(hint, str):
        hint = eval(hint, names)
    if isinstance(hint, list | tuple):
        for part in hint:
            yield from gaps(part, names)
    elif typing.get_origin(hint) is typing.Literal or hint in FOREIGN:
        return
    elif hint in (typing.Any, inspect.Parameter.empty):
        yield "Any"
    elif typing.is_typeddict(hint):
        yield from gaps(list(hint.__annotations__.values()), names)
    elif args := typing.get_args(hint):
        yield from gaps(args, names)
    elif hint in GENERIC or (isinstance(hint, type) and getattr(hint, "__parameters__", ())):
        yield f"{hint} without parameters"


def function_gaps(name: str, function: collections.abc.Callable[..., object]) -> Iterator[str]:
    """The gaps in the signature of a function, or in those of its overloads."""
    function = inspect.unwrap(function)
    names = PUBLIC | vars(sys.modules[function.__module__])
    for variant in map(inspect.unwrap, typing.get_overloads(function) or [function]):
        signature = inspect.signature(variant)
        hints = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
        hints = {key: hint for key, hint in hints.items() if key not in ("self", "cls")}
        if function.__name__ != "__init__":
            hints["the result"] = signature.return_annotation
        yield from (f"{name}, {key}: {gap}" for key, hint in hints.items() for gap in gaps(hint, names))


def class_gaps(name: str, kind: type) -> Iterator[str]:
    """The gaps in the fields and methods of a class of the package, and of those it inherits from."""
    for owner in (owner for owner in kind.__mro__ if owner.__module__.startswith("deberta_jax")):
        names = PUBLIC | vars(sys.modules[owner.__module__])
        for field, hint in inspect.get_annotations(owner).items():
            yield from (f"{name}.{field}: {gap}" for gap in gaps(hint, names) if not field.startswith("_"))
        for method, value in vars(owner).items():
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if inspect.isfunction(function) and (method in CALLED or not method.startswith("_")):
                yield from function_gaps(f"{name}.{method}", function)


@pytest.mark.parametrize("name", [name for name in PUBLIC if callable(PUBLIC[name])])
def test_a_public_signature_has_no_any(name):
    value = PUBLIC[name]
    matches = set(class_gaps(name, value) if inspect.isclass(value) else function_gaps(name, value))
    assert matches == ({EXCEPTION} if name == "Batch" else set())


def test_any_is_detected_in_every_part_of_a_type():
    for hint in (
        typing.Any,
        dict[str, typing.Any],
        list,
        collections.abc.Callable[..., list[typing.Any]],
        "list | None",
    ):
        assert list(gaps(hint, {}))
    for hint in (object, dict[str, object], typing.Literal["Any"], tuple[int, ...], jax.typing.DTypeLike | None):
        assert not list(gaps(hint, {}))


def test_the_script_uses_every_public_name():
    used = set(re.findall(r"\bdj\.(\w+)", SCRIPT.read_text(encoding="utf-8")))
    assert used == set(deberta_jax.__all__)


@pytest.mark.parametrize("name", CHECKERS)
def test_a_type_checker_accepts_the_script_and_refuses_wrong_classes_and_heads(name, tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(WRONG)
    # One call for both files: most of the time goes into reading the package.
    command = [*CHECKERS[name], str(SCRIPT), str(path)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    errors = re.findall(r"(\w+\.py):(\d+)(?::\d+)?(?:: error| - error)", output)
    assert set(errors) == {("wrong.py", str(line)) for line in (2, 3, 4)}, output
