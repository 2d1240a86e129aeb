"""docs/paper.md: the files, functions, tests, golden cases and commands that it names exist."""

import ast
import functools
import re
import shlex
from pathlib import Path

import pytest

import deberta_jax as dj
from deberta_jax.cli import evaluate, finetune, pretrain
from deberta_jax.cli.evaluate_options import EvaluateConfig
from deberta_jax.cli.main import main
from deberta_jax.finetuning.config import FinetuneConfig
from deberta_jax.pretraining.config import PretrainConfig

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
CODE = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))
FENCED = "\n".join(re.findall(r"^```bash\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE))
# A path, relative to the repository or to the package, and a name that the file defines.
PATHS = sorted({text for text in CODE if re.fullmatch(r"[\w./-]+(\.py(::\w+)?|\.md)|tests/golden/\w+", text)})


def file_of(path: str) -> Path:
    inside = path.partition("/")[0] in ("tests", "benchmarks", "docs", "notebooks")
    return ROOT / path if inside else ROOT / "deberta_jax" / path


@functools.cache
def names_in(path: Path) -> set[str]:
    definitions = ast.FunctionDef | ast.ClassDef
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, definitions)}


@pytest.mark.parametrize("text", PATHS)
def test_a_file_exists_and_defines_the_name(text):
    path, _, name = text.partition("::")
    file = file_of(path)
    assert file.exists()
    assert not name or name in names_in(file)


def test_public_names_and_fields_exist():
    names = re.findall(r"\bdj\.([a-zA-Z]\w*)", PAGE)
    assert names
    assert not set(names) - {"NAME"} - set(dj.__all__)
    fields = re.findall(r"`(DebertaConfig|Masking)\.(\w+)`", PAGE)
    assert fields
    assert not [(owner, field) for owner, field in fields if field not in getattr(dj, owner).__dataclass_fields__]


def test_scripts_exist():
    scripts = re.findall(r"^python (\S+)", FENCED, re.MULTILINE)
    assert scripts
    assert not [script for script in scripts if not (ROOT / script).is_file()]


def test_commands_are_valid(monkeypatch):
    configs = []

    def record_pretrain(config: PretrainConfig) -> None:
        configs.append(config)

    def record_finetune(config: FinetuneConfig) -> None:
        configs.append(config)

    def record_evaluate(config: EvaluateConfig) -> None:
        configs.append(config)

    monkeypatch.setattr(pretrain, "run", record_pretrain)
    monkeypatch.setattr(finetune, "run", record_finetune)
    monkeypatch.setattr(evaluate, "run", record_evaluate)
    pattern = r"deberta-jax ((?:pretrain|finetune|evaluate) [a-z0-9].*)"
    lines = [*CODE, *FENCED.replace("\\\n", " ").splitlines()]
    commands = [match[1] for text in lines if (match := re.fullmatch(pattern, text))]
    assert commands
    for command in commands:
        assert main(shlex.split(command, comments=True)) == 0, command
    assert len(configs) == len(commands)
