"""`deberta-jax evaluate perplexity` on files."""

import json

import pytest
from toy_runs import call
from toy_tokenizers import TEXT

from deberta_jax.hub.pretrained import from_pretrained
from deberta_jax.inference.perplexity import perplexity

DOCUMENTS = [line.strip() for line in TEXT.strip().splitlines()]


@pytest.fixture
def files(tmp_path):
    """The same documents as text and as JSON lines."""
    (tmp_path / "text.txt").write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    lines = [json.dumps({"text": document}) for document in DOCUMENTS]
    (tmp_path / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_files_are_evaluated_as_the_function_does(files, masked_lm, capsys):
    expected = perplexity(*from_pretrained(masked_lm, head="masked_lm"), DOCUMENTS, max_length=12, stride=3)
    for name in ("text.txt", "text.jsonl"):
        options = ["--max-length", "12", "--stride", "3", "--model", masked_lm]
        assert call("evaluate", "perplexity", "--data", files / name, *options) == 0
        first, second = capsys.readouterr().out.splitlines()
        assert first.startswith(f"perplexity {expected.per_token:.2f} per token ({expected.tokens:,} tokens, ")
        assert first.endswith(f", {expected.per_word:.2f} per word ({expected.words:,} words and line ends)")
        assert second.endswith(" tokens/s")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no text given: use --data"),
        (["--data", "FILE"], "no model given: use --model"),
        (["--data", "nowhere.txt", "--model", "MODEL"], "nowhere.txt: no such file"),
        (["--data", "FILE", "--model", "MODEL", "--stride", "16"], "stride is 16, but windows of 16 tokens"),
        (["--data", "FILE", "--model", "MODEL", "--max-length", "17"], "the model has 16 absolute positions"),
        (["--data", "FILE", "--model", "PLAIN"], "lm_predictions.lm_head.dense.weight is missing"),
    ],
)
def test_wrong_options_are_reported_in_one_line(options, message, files, model_folders, capsys):
    names = {"FILE": str(files / "text.txt"), "MODEL": model_folders["masked_lm"], "PLAIN": model_folders[None]}
    assert call("evaluate", "perplexity", *(names.get(option, option) for option in options)) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error
