"""The docstrings of the public names are complete, and their examples run as written."""

import ast
import doctest
import inspect
import re
import textwrap
from pathlib import Path

import jax
import pytest
from mock_hub import serving
from published_models import published, write_language_model

import deberta_jax

NAMES = [name for name in deberta_jax.__all__ if name != "__version__"]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
ARRAY = re.compile(r"\b(Float|Int|Bool|Shaped)\d*\[")
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Example):\n((?:(?: .*)?\n)*)", re.MULTILINE)
# They refer to the arguments and errors of the encoder, or of the model with adapters.
REFERENCE = re.compile(r"rguments and errors are those of")
# They check nothing themselves.
NO_ERRORS = {
    "Batch", "EntityScoring", "Generated", "HeadOutput", "MultipleChoice", "PRESETS", "Perplexity", "QuestionAnswering",
    "ReplacedTokenDetection", "SequenceClassification", "Sums", "TokenClassification", "TrainState", "InputError",
    "c2c_scores", "causal_lm_objective", "discriminator_objective", "label", "lora_objective", "make_step",
    "mask_tokens", "masked_lm_objective", "merge_lora", "parameters", "plain_objective", "replace_tokens", "stream",
}  # fmt: skip


def docstring(name):
    """The docstring of a public name; that of a value follows its assignment."""
    value = getattr(deberta_jax, name)
    if callable(value):
        return inspect.getdoc(value) + "\n"
    module = Path(deberta_jax.__file__).parent / f"{deberta_jax._MODULES[name].replace('.', '/')}.py"
    body = ast.parse(module.read_text(encoding="utf-8")).body
    assigned = [name in ast.unparse(node).partition("=")[0] for node in body]
    return inspect.cleandoc(body[assigned.index(True) + 1].value.value) + "\n"


def sections(text):
    return {match[1]: textwrap.dedent(match[2]) for match in SECTION.finditer(text)}


def entries(text, section):
    """The description of each argument, field or error in a section."""
    parts = re.split(r"^(\*{0,2}\w[\w, ]*): ", sections(text).get(section, ""), flags=re.MULTILINE)[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {name: description for names, description in pairs for name in names.split(", ")}


def check_arguments(function, text):
    """Each argument is described, and arrays by their shapes."""
    described, signature = entries(text, "Args"), inspect.signature(function)
    for name, parameter in signature.parameters.items():
        if name in ("self", "cls"):
            continue
        assert name in described, f"{function.__qualname__}: {name} is not described"
        if ARRAY.search(annotation := str(parameter.annotation)) and "Callable" not in annotation:
            shaped = [entry for entry in described.values() if "[" in entry or "distances" in entry]
            assert described[name] in shaped, f"{function.__qualname__}: {name} is described without its shape"
    if ARRAY.search(annotation := str(signature.return_annotation)) and "Callable" not in annotation:
        assert "[" in "".join(map(sections(text).get, ("Returns", "Yields"), ("", ""))) + text.partition("\n")[0]


def fields_with_docstrings(kind):
    """The fields of a class that a string follows."""
    [node] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    pairs = zip(node.body, node.body[1:], strict=False)
    return {
        first.target.id
        for first, second in pairs
        if isinstance(first, ast.AnnAssign) and isinstance(second, ast.Expr) and isinstance(second.value, ast.Constant)
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_docstring_describes_arguments_results_errors_and_an_example(name):
    value, text = getattr(deberta_jax, name), docstring(name)
    parts = sections(text)
    assert len(text.partition("\n")[0]) <= 120 and text.partition("\n")[0].endswith((".", ",", ":"))
    assert ">>> " in parts["Example"]
    assert ("Raises" in parts) == (name not in NO_ERRORS)
    if inspect.isfunction(value):
        check_arguments(value, text)
    if not inspect.isclass(value):
        return
    fields = getattr(value, "_fields", None) or tuple(getattr(value, "__dataclass_fields__", ()))
    if fields:
        missing = set(fields) - fields_with_docstrings(value) - entries(text, "Attributes").keys()
        assert not missing, f"{name}: fields without a description"
    elif value.__init__ is not ValueError.__init__:
        check_arguments(value.__init__, text)


@pytest.mark.parametrize("name", [name for name in NAMES if inspect.isclass(getattr(deberta_jax, name))])
def test_public_methods_and_properties_have_docstrings(name):
    kind = getattr(deberta_jax, name)
    for attribute, member in vars(kind).items():
        if attribute.startswith("_") and attribute != "__call__":
            continue
        member = getattr(member, "__func__", member)
        if inspect.isfunction(member) or isinstance(member, property):
            text = inspect.getdoc(member)
            assert text, f"{name}.{attribute} has no docstring"
            if "Args" in sections(text + "\n"):
                check_arguments(member, text + "\n")
            elif attribute == "__call__":
                assert REFERENCE.search(text)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A local mock hub with models under published names, in a folder with a pretrained language model."""
    root = tmp_path_factory.mktemp("examples")
    write_language_model(root / "work/runs/clm/model")
    with serving(published(root / "models")) as hub, pytest.MonkeyPatch.context() as patch:
        hub.use(patch, root / "cache")
        patch.chdir(root / "work")
        yield hub


@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs_as_written(name, hub, unchecked_shapes):
    printed = []
    example = doctest.DocTestParser().get_doctest(docstring(name), {}, name, None, None)
    # The default of JAX, under which users run the examples; the other tests forbid implicit promotion.
    with jax.numpy_dtype_promotion("standard"):
        results = doctest.DocTestRunner(optionflags=FLAGS).run(example, out=printed.append)
    assert not results.failed, "".join(printed)
    assert results.attempted
