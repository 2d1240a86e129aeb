"""Limits of open files and of the size of files: one line, and exit code 2."""

import subprocess
import sys

import pytest
from stub_runs import environment
from toy_text import write_texts

from deberta_jax.cli.limits import MIN_OPEN_FILES

# A command, after its limits are set.
LIMITED = """
import resource, sys
kind, soft, hard, *words = sys.argv[1:]
resource.setrlimit(getattr(resource, kind), (int(soft), int(hard)))
from deberta_jax.cli.main import main
code = main(words)
print("open files", resource.getrlimit(resource.RLIMIT_NOFILE)[0], file=sys.stderr)
sys.exit(code)
"""


def limited(kind, soft, hard, *words):
    command = [sys.executable, "-c", LIMITED, kind, str(soft), str(hard), *map(str, words)]
    # Python would write compiled modules that are cut at the limit.
    settings = environment(1) | {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=settings, check=False)


@pytest.fixture
def tokenizer_command(tmp_path):
    pattern = write_texts(tmp_path)
    return ["tokenizer", "--files", *pattern, "--vocabulary", "290", "--output", tmp_path / "new" / "spm.model"]


def test_too_few_open_files_are_refused_in_one_line(tokenizer_command):
    process = limited("RLIMIT_NOFILE", 40, 40, *tokenizer_command)
    assert process.returncode == 2
    assert process.stderr.splitlines() == [
        "deberta-jax tokenizer: the limit of open files is 40, but at least 256 are required; raise it with "
        "`ulimit -n 256`",
        "open files 40",
    ]


def test_the_limit_of_open_files_is_raised_as_far_as_the_system_allows(tokenizer_command):
    process = limited("RLIMIT_NOFILE", 40, MIN_OPEN_FILES, *tokenizer_command)
    assert (process.returncode, process.stderr) == (0, f"open files {MIN_OPEN_FILES}\n")


def test_a_vocabulary_that_is_larger_than_a_file_may_be_is_one_line_and_leaves_nothing(tokenizer_command, tmp_path):
    process = limited("RLIMIT_FSIZE", 1000, 1000, *tokenizer_command)
    error, _ = process.stderr.splitlines()
    assert process.returncode == 2
    assert error.endswith("spm.model: cannot be written (File too large); the previous file, if any, is unchanged")
    assert not (tmp_path / "new").exists()
