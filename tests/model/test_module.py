"""Representations of models."""

import io
from contextlib import redirect_stdout

import pytest
from flax import nnx
from small_models import bare, masked_lm


# treescope uses a class that numpy deprecates.
@pytest.mark.filterwarnings("ignore:The chararray class is deprecated:DeprecationWarning")
def test_a_model_is_printed_in_one_line():
    import treescope

    line = "MaskedLM(deberta-v2, 3 layers, hidden size 16, vocabulary 61, "
    for text in (repr(masked_lm("v3")), str(masked_lm("v3")), treescope.render_to_text(masked_lm("v3"))):
        assert text.startswith(line) and "\n" not in text
    assert repr(bare("v1")).endswith("parameters of float32)")
    output = io.StringIO()
    with redirect_stdout(output):
        nnx.display(bare("v3"))
    assert output.getvalue().count("\n") == 1


def test_parts_of_a_model_are_printed_without_the_config():
    text = repr(bare("v2").encoder)
    assert "kernel" in text and "vocab_size" not in text
