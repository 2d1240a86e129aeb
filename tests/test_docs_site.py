"""What the documentation site generates: the references of the API and of the commands, and links to the repository."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

import deberta_jax
from deberta_jax.cli.main import COMMANDS
from deberta_jax.cli.parse import option_help

ROOT = Path(__file__).parents[1]
ADDRESS = "https://example.org/repository"


@pytest.fixture(scope="module", autouse=True)
def extensions():
    sys.path.insert(0, str(ROOT / "docs/_extensions"))
    yield
    sys.path.remove(str(ROOT / "docs/_extensions"))


@pytest.fixture(scope="module")
def reference(extensions):
    from api_reference import Reference
    from package_index import Package

    return Reference(Package(ROOT / "deberta_jax"), lambda path: f"{ADDRESS}/{path}")


@pytest.fixture
def repository(extensions, tmp_path):
    from repository import Repository

    for folder in ("docs", "notebooks", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "README.md").write_text("# Title\n\n## `code` and text\n")
    return Repository(tmp_path, ADDRESS)


@pytest.mark.parametrize("name", deberta_jax.__all__)
def test_each_public_name_has_an_entry_with_its_docstring(reference, name):
    entry = reference.entries([name])
    assert re.match(rf":+\{{py:(function|class|data)\}} {name}\b", entry)
    assert name == "__version__" or re.search(rf"\[Source\]\({ADDRESS}/deberta_jax/[\w/]+\.py#L\d+\)", entry)
    assert reference.summary([name]).splitlines()[-1].count("|") == 3


def test_signatures_have_the_shapes_and_the_defaults_of_the_source(reference):
    entry = reference.entries(["c2c_scores"])
    assert "c2c_scores(q: Float[Array, 'B T N H'], k: Float[Array, 'B S N H']) -> Float[Array, 'B N T S']" in entry
    # A short alias is written out, and a class of the package is a link.
    assert "input_ids: Int[ArrayLike, 'B T'] | None=None" in reference.entries(["Deberta"])
    assert "tokenizer: deberta_jax.Tokenizer" in reference.entries(["embed"])
    assert "mode: Literal['uniform', 'tail_biased'] = 'uniform'" in reference.entries(["Masking"])


def test_every_type_that_a_signature_links_to_has_an_entry(reference):
    text = reference.types()
    module, defined = "", {f"deberta_jax.{name}" for name in deberta_jax.__all__}
    for name, module in re.findall(r"^:::::\{py:\w+\} (\w+).*?^:module: ([\w.]+)$", text, re.MULTILINE | re.DOTALL):
        defined.add(f"{module}.{name}")
        importlib.import_module(module)
    everything = text + reference.entries(deberta_jax.__all__)
    signatures = "\n".join(re.findall(r"^:+\{py:.*|^:(?:type|canonical):.*", everything, re.MULTILINE))
    assert set(re.findall(r"deberta_jax\.[\w.]*\w", signatures)) <= defined


def test_an_entry_for_a_name_that_is_not_public_is_an_error(reference):
    with pytest.raises(ValueError, match="DebertaV4 is not a public name"):
        reference.entries(["DebertaV4"])


DOC = """Score texts, see `dj.rank` and `layer`.

    Scores are in [0, 1] (docs/numerics.md, "Heads and
    losses"); 2 * x is not --top-k.

    Args:
        texts: the texts; a text that is
            longer is truncated.
        top: how many.

    Returns:
        Scores [B].

    Raises:
        InputError: an invalid text.

    Example:
        >>> 1 + 1
        2
    """


def test_a_docstring_becomes_markdown_with_fields_links_and_an_example(extensions):
    from docstrings import markdown

    text = markdown(DOC, {"rank", "layer", "InputError"})
    assert text.splitlines()[0] == "Score texts, see {py:obj}`dj.rank <deberta_jax.rank>` and `layer`."
    assert "[numerics, “Heads and losses”](numerics.md#heads-and-losses)" in text
    assert r"2 \* x is not `--top-k`." in text
    assert ":param texts: the texts; a text that is longer is truncated.\n:param top: how many." in text
    assert ":returns: Scores [B].\n:raises InputError: an invalid text." in text
    assert text.endswith("```pycon\n>>> 1 + 1\n2\n```")


def test_names_are_linked_in_text_and_not_in_code(reference):
    text = "`dj.embed`, `dj.rank(...)`, `dj.nothing`\n\n```python\n`dj.embed`\n```\n"
    linked = "{py:obj}`dj.embed <deberta_jax.embed>`, {py:obj}`dj.rank(...) <deberta_jax.rank>`, `dj.nothing`"
    assert reference.link_names(text) == text.replace("`dj.embed`, `dj.rank(...)`, `dj.nothing`", linked)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_commands_lists_each_option_with_its_help(extensions, command):
    import command_reference

    module = importlib.import_module(COMMANDS[command].options)
    default = None
    if hasattr(module, "RECIPES"):
        selection = module.Selection() if hasattr(module, "Selection") else None
        default = module.recipe(command_reference.TYPICAL[command], selection)
    expected = option_help(type(default) if default else module.OPTIONS, default)
    page = command_reference.section(command)
    if command == "plan":
        expected = {name: text for name, text in expected.items() if f"{{option}} {name}" in page}
        assert {"--topology", "--price", "--search"} <= expected.keys()
    for name, text in expected.items():
        entry = re.search(rf"^:::\{{option\}} (?:.*, )?{re.escape(name)}(?: .*|,.*|)\n(.*)\n:::$", page, re.MULTILINE)
        assert entry, name
        first = re.split(r"[(`*<_\"-]", " ".join(text.split()))[0].strip()
        assert first in entry[1]


def test_recipes_list_the_defaults_that_differ(extensions):
    import command_reference

    row = next(line for line in command_reference.section("pretrain").splitlines() if line.startswith("| `v1-base` |"))
    assert "139 M parameters" in row
    assert "`--steps 1000000`" in row and "`--data.masking.whole-words`" in row
    assert "--seed" not in row


def test_links_lead_to_pages_of_the_site_or_to_the_repository(repository):
    def resolve(text, source="docs/page.md"):
        return repository.resolve_links(text, source, warnings.append)

    warnings = []
    assert resolve("[a](other.md#part) [b](#part) [c](https://x.org/a.md)") == (
        "[a](other.md#part) [b](#part) [c](https://x.org/a.md)"
    )
    assert resolve("[n](../notebooks/mesh.ipynb)") == "[n](notebooks/mesh.ipynb)"
    assert resolve("[t](../tests)") == f"[t]({ADDRESS}/tree/main/tests)"
    anchor = "../README.md#code-and-text"
    assert resolve(f"[r]({anchor}) `[r]({anchor})`") == (
        f"[r]({ADDRESS}/blob/main/README.md#code-and-text) `[r]({anchor})`"
    )
    assert resolve("[d](docs/page.md)", "CHANGELOG.md") == "[d](page.md)"
    assert warnings == []
    resolve("[r](../README.md#part) [m](../missing.py)")
    assert warnings == [
        "docs/page.md: README.md has no heading for #part",
        "docs/page.md: ../missing.py is not a file of the repository",
    ]


def test_notebooks_are_copied_with_their_outputs_and_without_older_copies(repository):
    outputs = [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}]
    badge = "[![Open in Colab](https://colab.example/badge.svg)](https://colab.example/mesh.ipynb)"
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", badge, "\n", "[guide](../docs/scaling.md)"]},
        {"cell_type": "code", "source": ["print(1)  # [x](../docs/scaling.md)"], "outputs": outputs},
    ]
    (repository.root / "notebooks/mesh.ipynb").write_text(json.dumps({"cells": cells}))
    copies = repository.root / "docs/notebooks"
    copies.mkdir()
    (copies / "old.ipynb").write_text("{}")
    repository.copy_pages(repository.root / "docs", pytest.fail)
    assert [path.name for path in copies.iterdir()] == ["mesh.ipynb"]
    text, code = json.loads((copies / "mesh.ipynb").read_text())["cells"]
    assert text["source"].splitlines()[1:] == [
        "[Open in Colab](https://colab.example/mesh.ipynb){.colab}", "[guide](../scaling.md)"
    ]  # fmt: skip
    assert code == cells[1]
