"""`deberta-jax pretrain` on named fields, files without an extension and DNA: settings, exact resume, wrong options."""

import json
import random

import pytest
from toy_runs import call, read_json, read_lines, two_devices

from deberta_jax.pretraining.staged_batches import StagedBatches


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder with JSON lines of DNA in files without extensions."""
    folder, rng = tmp_path_factory.mktemp("texts"), random.Random(0)
    for part in range(2):
        lines = (json.dumps({"content": "".join(rng.choices("ACGT", k=300)), "n": n}) for n in range(60))
        (folder / f"part-{part}").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def pretrain(texts, capsys):
    """Run the command on two devices; returns the exit code, the output and the errors."""

    def run(folder, *options, field="content"):
        sizes = ["--vocabulary", "300", "--data.length", "32", "--batch-size", "4", "--steps", "4"]
        times = ["--evaluate-every", "4", "--checkpoint-every", "1", "--data.evaluate-batches", "2"]
        data = ["--data.files", texts, "--data.text-field", field]
        code = call("pretrain", "tiny", "--folder", folder, *data, *sizes, *times, *options)
        return code, *capsys.readouterr()

    with two_devices():
        yield run


def test_a_run_on_text_without_spaces_resumes_exactly_and_its_rule_is_a_setting(pretrain, tmp_path, monkeypatch):
    code, out, _ = pretrain(tmp_path / "whole")
    assert code == 0
    assert out.count("text without spaces: ") == 1 and "each of them is masked as a word" in out
    settings = read_json(tmp_path / "whole" / "config.json")
    assert settings["data"]["text_field"] == "content"
    assert settings["data"]["masking"]["max_word_tokens"] == 16

    number = 0

    def fail_at_the_fourth(batches, following=StagedBatches.__next__):
        nonlocal number
        number += 1
        if number == 4:
            raise RuntimeError("failed")
        return following(batches)

    with monkeypatch.context() as patch:
        patch.setattr(StagedBatches, "__next__", fail_at_the_fourth)
        with pytest.raises(RuntimeError, match="failed"):
            pretrain(tmp_path / "run")
    assert pretrain(tmp_path / "run")[0] == 0
    for split in ("train", "held_out"):
        assert read_lines(tmp_path / "run", split) == read_lines(tmp_path / "whole", split)

    code, _, err = pretrain(tmp_path / "run", field="other")
    assert code == 2 and "data.text_field (content in the folder, other now)" in err
    # A run of an earlier version has no limit.
    del settings["data"]["masking"]["max_word_tokens"]
    (tmp_path / "whole" / "config.json").write_text(json.dumps(settings))
    code, _, err = pretrain(tmp_path / "whole")
    assert code == 2 and "data.masking.max_word_tokens (absent in the folder, 16 now)" in err
    assert pretrain(tmp_path / "whole", "--data.masking.max-word-tokens", "None")[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.text-field", "body"], 'with a string in the field "body" (fields: content, n); name the field'),
        (["--data.max-document-bytes", "100"], "line 1, byte 0: a line of more than 100 bytes"),
        (["--data.document", "word"], "word"),
    ],
)
def test_wrong_text_options_are_refused(pretrain, tmp_path, options, message):
    code, _, err = pretrain(tmp_path / "run", *options)
    assert code == 2 and message in err
