"""Type checkers understand the public names, and give a loaded model the class of its head."""

import collections.abc
import os
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import jax
import pytest
from signature_gaps import gaps

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
GAPS = ROOT / "tests/support/signature_gaps.py"
# `model(**batch)` passes the values of a batch to keywords of several types, which only Any allows.
EXCEPTION = "Batch.__getitem__, the result: Any"


def test_public_signatures_have_no_any():
    # Another process: the checks of shapes hide all overloads of a function but the last.
    output = subprocess.run([sys.executable, str(GAPS)], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert output.splitlines() == [EXCEPTION]


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
