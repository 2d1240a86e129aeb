"""`deberta-jax predict`: examples in, a line of JSON for each out, whatever is wrong with some or comes between."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import deberta_jax as dj
from deberta_jax.cli import predict, predict_io
from deberta_jax.cli.main import main
from deberta_jax.config import DebertaConfig
from deberta_jax.hub.heads import HEADS
from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.tokenizers.train import train_tokenizer

SENTENCE = "The quick brown fox jumps over the lazy dog and eats what it finds there, every day of the year."
LABELS = {
    "sequence_classification": ("entailment", "neutral", "contradiction"),
    "token_classification": ("O", "B-PER", "I-PER"),
}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str | None, str]:
    """A model folder for each head, of random parameters that differ from zero."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer([SENTENCE] * 20, root / "spm.model", 300)
    config = DebertaConfig(**SMALL, vocab_size=301, max_position_embeddings=32, position_buckets=8)
    random = np.random.default_rng(0)
    for head, kind in HEADS.items():
        its = dataclasses.replace(config, labels=LABELS.get(head, config.labels))
        abstract = jax.eval_shape(lambda key, kind=kind, its=its: kind(its, key=key), jax.random.key(0))
        model = jax.tree.map(lambda x: jnp.asarray(random.normal(0, 0.3, x.shape), x.dtype), abstract)
        save_pretrained(root / str(head), model, tokenizer)
    return {head: str(root / str(head)) for head in HEADS}


@pytest.fixture
def masked(folders) -> str:
    return folders["masked_lm"]


def rows_of(path: Path | str) -> list[dict]:
    text = Path(path).read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def printed(capfd) -> list[dict]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def written(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


TASKS = {
    "fill-mask": ("masked_lm", ["--text", "The [MASK] fox and the [MASK]."]),
    "classification": ("sequence_classification", ["--text", "A fox.", "--pair", "A dog."]),
    "token-classification": ("token_classification", ["--text", "The quick fox"]),
    "question-answering": ("question_answering", ["--question", "What jumps?", "--context", SENTENCE]),
    "multiple-choice": ("multiple_choice", ["--text", "The fox", "--choices", "jumps", "eats", "finds"]),
    "zero-shot": ("sequence_classification", ["--text", "A fox.", "--labels", "fox", "dog", "--task", "zero-shot"]),
    "replaced-tokens": ("replaced_token_detection", ["--text", "The lazy fox", "--task", "replaced-tokens"]),
    "embeddings": (None, ["--text", "The lazy fox", "--task", "embeddings"]),
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_gives_a_line_of_json_for_a_text(task, folders, capfd):
    head, words = TASKS[task]
    assert main(["predict", folders[head], *words]) == 0
    [row] = printed(capfd)
    prediction = row["prediction"]
    if task == "fill-mask":
        assert [len(mask) for mask in prediction] == [5, 5]
        assert prediction[0][0]["probability"] >= prediction[0][1]["probability"] > 0
    elif task == "classification":
        assert (row["text"], row["pair"]) == ("A fox.", "A dog.")
        assert set(prediction["scores"]) == set(LABELS[head])
    elif task == "token-classification":
        assert all(row["text"][entity["start"] : entity["end"]] == entity["text"] for entity in prediction)
    elif task == "question-answering":
        assert prediction["text"] == SENTENCE[prediction["start"] : prediction["end"]]
    elif task == "multiple-choice":
        assert row["choices"][prediction["place"]] == prediction["choice"]
    elif task == "zero-shot":
        assert set(prediction["scores"]) == {"fox", "dog"}
    elif task == "replaced-tokens":
        assert all(row["text"][token["start"] : token["end"]] == token["text"] for token in prediction)
    else:
        model, tokenizer = dj.from_pretrained(folders[head])
        assert (np.float32(prediction) == dj.embed(model, tokenizer, ["The lazy fox"])[0]).all()


def test_lines_of_a_file_come_back_in_their_order_with_all_their_fields(masked, tmp_path):
    texts = [" ".join(["fox"] * (number * 7 % 8)) + " [MASK]" for number in range(30)]
    rows = [{"id": number, "text": text, "label": "é"} for number, text in enumerate(texts)]
    output = tmp_path / "out.jsonl"
    assert main(["predict", masked, "--input", written(tmp_path / "in.jsonl", *rows), "--output", str(output)]) == 0
    found = rows_of(output)
    assert [{key: row[key] for key in ("id", "text", "label")} for row in found] == rows
    model, tokenizer = dj.from_pretrained(masked, "masked_lm")
    filled = dj.fill_mask(model, tokenizer, texts)
    assert [row["prediction"][0][0]["token"] for row in found] == [masks[0][0].token for masks in filled]
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl"]


GOOD = b'{"text": "a [MASK]"}'
BAD = {
    b"": "empty; a JSON object is wanted",
    b"   ": "empty; a JSON object is wanted",
    b"text": "not JSON: Expecting value at character 1",
    b'{"text": "a [MASK]"': "not JSON: Expecting ',' delimiter at character 20",
    b'{"text": "a \0 [MASK]"}': "not JSON: Invalid control character at at character 13",
    b"[" * 100_000: "not JSON that can be read: ",
    b'{"text": "[MASK]", "n": ' + b"9" * 5000 + b"}": "not JSON that can be read: ",
    b'{"text": "[MASK]", "n": NaN}': "has a number that is infinite or none (NaN)",
    b'{"text": "[MASK]", "n": 1e999}': "has a number that is infinite or none (NaN)",
    b'["a [MASK]"]': "a list; a JSON object is wanted",
    b'"a [MASK]"': "a string; a JSON object is wanted",
    b"null": "null; a JSON object is wanted",
    b"{}": 'no field "text"; there is none',
    b'{"id": 1, "sentence": "[MASK]"}': 'no field "text"; there is "id", "sentence"',
    b'{"text": null}': '"text" must be a string, not null',
    b'{"text": ["a [MASK]"]}': '"text" must be a string, not a list',
    b'{"text": 7}': '"text" must be a string, not a number',
    b'{"text": " \\n"}': '"text" is empty',
    b'{"text": "no mask"}': "has no [MASK]; ",
    b'{"text": "[MASK]", "pair": 3}': '"pair" must be a string, not a number',
    b'{"text": "[MASK]", "prediction": 3}': 'has a field "prediction", which is where results go',
    b'{"text": "caf\xe9 [MASK]"}': "not UTF-8 at byte 14",
    b'{"text": "\\ud83d [MASK]"}': "has a lone surrogate U+D83D",
    b'{"text": "[MASK]", "\\udc00": 1}': "has a lone surrogate U+DC00",
    b'{"text": "' + b"fox " * 100 + b'[MASK]"}': "1 of its [MASK] stand beyond the 32 tokens",
}


def test_each_bad_line_is_told_in_its_place_and_the_others_are_done(masked, tmp_path, capfd):
    lines_in = [line for bad in BAD for line in (bad, GOOD)]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines_in))
    output = tmp_path / "out.jsonl"
    assert main(["predict", masked, "--input", str(tmp_path / "in.jsonl"), "--output", str(output)]) == 2
    found = rows_of(output)
    assert len(found) == len(lines_in)
    said = capfd.readouterr().err.splitlines()
    for number, (row, told) in enumerate(zip(found[::2], BAD.values(), strict=True)):
        assert row.keys() == {"line", "error"}
        assert row["line"] == 2 * number + 1
        assert row["error"].startswith(told)
        assert any(line.endswith(f"in.jsonl, line {row['line']}: {row['error']}") for line in said)
    assert all(row["text"] == "a [MASK]" and len(row["prediction"]) == 1 for row in found[1::2])
    assert said[-1] == f"deberta-jax predict: {len(BAD)} of {len(lines_in)} lines could not be used"


def test_a_line_that_is_too_long_is_not_held(masked, tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST", 64)
    (tmp_path / "in.txt").write_bytes(b"a [MASK]\n" + b"x" * 1000 + b"\nb [MASK]\n" + b"y" * 65)
    assert main(["predict", masked, "--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out")]) == 2
    found = rows_of(tmp_path / "out")
    assert [row.get("text") for row in found] == ["a [MASK]", None, "b [MASK]", None]
    assert {row["error"] for row in found[1::2]} == {"longer than 0 MiB"}


def test_bad_lines_do_not_gather_in_memory(masked, tmp_path, monkeypatch):
    read, read_at_first = [], []
    decoded, write = predict.decoded, predict_io._write
    monkeypatch.setattr(predict, "CHUNK", 2)
    monkeypatch.setattr(predict, "WRITTEN", 1)
    monkeypatch.setattr(predict, "decoded", lambda line, plain: read.append(line) or decoded(line, plain=plain))
    monkeypatch.setattr(lines, "_write", lambda file, more: read_at_first.append(len(read)) or write(file, more))
    (tmp_path / "in.jsonl").write_bytes(b"{}\n" * 50 + GOOD + b"\n" + b"{}\n" * 49)
    output = tmp_path / "out.jsonl"
    assert main(["predict", masked, "--input", str(tmp_path / "in.jsonl"), "--output", str(output)]) == 2
    assert read_at_first[0] == 8
    assert [number for number, row in enumerate(rows_of(output), 1) if row.get("line") != number] == [51]


def test_a_line_of_a_txt_is_a_text_whatever_ends_it_and_whatever_signs_it_has(masked, tmp_path, capfd):
    text = "\ufeffa [MASK]\r\n\r\nb\u2028 [MASK] \0 {\nc [MASK]"
    (tmp_path / "in.txt").write_text(text, encoding="utf-8", newline="")
    assert main(["predict", masked, "--input", str(tmp_path / "in.txt")]) == 2
    first, second, third, fourth = map(json.loads, capfd.readouterr().out.removesuffix("\n").split("\n"))
    assert [row["text"] for row in (first, third, fourth)] == ["a [MASK]", "b\u2028 [MASK] \0 {", "c [MASK]"]
    assert second == {"line": 2, "error": '"text" is empty'}


def test_pairs_and_single_texts_may_stand_in_one_file(folders, tmp_path):
    rows = [
        {"text": "fox"},
        {"text": "fox", "pair": "dog"},
        {"text": "fox", "text_pair": "dog"},
        {"text": "fox", "pair": None},
    ]
    source, output = written(tmp_path / "in.jsonl", *rows), tmp_path / "out.jsonl"
    assert main(["predict", folders["sequence_classification"], "--input", source, "--output", str(output)]) == 0
    single, pair, same_pair, same_single = (row["prediction"] for row in rows_of(output))
    assert pair == same_pair != single == same_single


@pytest.fixture(scope="session")
def unfinished(folders, tmp_path_factory) -> Path:
    """A folder with an input, and an output that is whole, but as it was before it counted as such."""
    folder = tmp_path_factory.mktemp("unfinished")
    rows = [{"id": number, "text": f"fox {number} [MASK]"} if number != 3 else {"id": 3} for number in range(9)]
    words = ["--input", written(folder / "in.jsonl", *rows), "--output", str(folder / "out.jsonl")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path: None)
        assert main(["predict", folders["masked_lm"], *words]) == 2
    return folder


@pytest.fixture
def begun(masked, unfinished, tmp_path) -> tuple[list[str], Path, bytes]:
    """The command of an unfinished output, the output, and what is in it."""
    shutil.copytree(unfinished, tmp_path, dirs_exist_ok=True)
    output = tmp_path / "out.jsonl"
    command = ["predict", masked, "--input", str(tmp_path / "in.jsonl"), "--output", str(output)]
    return command, output, output.read_bytes()


def test_an_output_cut_anywhere_is_completed_to_the_same(begun, unfinished, capfd):
    command, output, whole = begun
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    kept = output.with_name("out.jsonl.progress")
    for cut in (0, 1, ends[0] - 1, ends[0], ends[3] + 5, ends[-1] - 1, ends[-1]):
        shutil.copytree(unfinished / kept.name, kept, dirs_exist_ok=True)
        output.write_bytes(whole[:cut])
        capfd.readouterr()
        assert main(command) == 2
        assert output.read_bytes() == whole
        assert not kept.exists()
        said = capfd.readouterr().err
        assert "1 of 9 lines could not be used" in said
        done = whole[:cut].count(b"\n")
        assert (f"goes on after line {done}\n" in said) == (done > 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--top", "3"], "top (5 then, 3 now)"),
        (["--task", "embeddings"], "task (fill-mask then, embeddings now)"),
        (["--dtype", "bfloat16"], "dtype (float32 then, bfloat16 now)"),
        (["--max-length", "16"], "max_length (none then, 16 now)"),
        (["--return", "attentions"], "return ( then, attentions now)"),
        ("input", "input ("),
        ("model", "model ("),
        ("stream", "input ("),
    ],
)
def test_an_output_is_not_gone_on_with_by_another_command(begun, capfd, folders, tmp_path, change, said):
    command, output, whole = begun
    if change == "input":
        with (tmp_path / "in.jsonl").open("a") as file:
            file.write("\n")
    elif change == "model":
        shutil.copytree(command[1], tmp_path / "model")
        config = tmp_path / "model" / "config.json"
        config.write_text(config.read_text() + " ")
        command[1] = str(tmp_path / "model")
    elif change == "stream":
        command[3] = "/dev/null"
    else:
        command += change
    capfd.readouterr()
    assert main(command) == 2
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert f"{output} was begun with other options: " in told
    assert said in told
    assert output.read_bytes() == whole


def test_settings_that_cannot_be_read_are_told(begun, capfd):
    command, output, _ = begun
    (output.with_name("out.jsonl.progress") / "settings.json").write_text("")
    capfd.readouterr()
    assert main(command) == 2
    assert "out.jsonl.progress/settings.json: not JSON" in capfd.readouterr().err


def test_an_output_in_the_models_own_folder_changes_nothing_of_the_model(masked, tmp_path):
    folder = shutil.copytree(masked, tmp_path / "model")
    before = predict._sha256(folder)
    assert main(["predict", str(folder), "--text", "a [MASK]", "--output", str(folder / "out.json")]) == 0
    assert predict._sha256(folder) == before


def test_the_model_and_the_batches_may_be_elsewhere_and_others_when_an_output_is_gone_on_with(begun, tmp_path):
    command, output, whole = begun
    shutil.move(shutil.copytree(command[1], tmp_path / "model"), tmp_path / "moved")
    command[1] = str(tmp_path / "moved")
    output.write_bytes(whole[: len(whole) // 2])
    assert main([*command, "--batch-tokens", "64"]) == 2
    assert [row.get("id") for row in rows_of(output)] == [0, 1, 2, None, 4, 5, 6, 7, 8]


def test_of_an_output_without_a_whole_line_nothing_is_lost_by_other_options(begun):
    command, output, whole = begun
    output.write_bytes(whole[:10])
    assert main([*command, "--top", "1"]) == 2
    assert len(rows_of(output)[0]["prediction"][0]) == 1


def test_a_complete_output_is_not_written_over(masked, tmp_path, capfd):
    command = ["predict", masked, "--text", "a [MASK]", "--output", str(tmp_path / "out.jsonl")]
    assert main(command) == 0
    whole = (tmp_path / "out.jsonl").read_bytes()
    capfd.readouterr()
    assert main(command) == 2
    assert (
        "out.jsonl exists, and is not one to go on with: delete it, or name another file with --output"
        in capfd.readouterr().err
    )
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_two_commands_do_not_write_one_output(begun, capfd):
    command, output, whole = begun
    with predict_io.lock_folder(output.with_name("out.jsonl.progress")):
        capfd.readouterr()
        assert main(command) == 2
    assert "out.jsonl.progress: another process works in this folder" in capfd.readouterr().err
    assert output.read_bytes() == whole


KILLED = """
import os, signal, sys
from deberta_jax.cli import predict, predict_io
from deberta_jax.cli.main import main

predict.CHUNK = predict.WRITTEN = 2
left = [2]
write = predict_io._write

def killed_in_the_middle(file, more):
    left[0] -= 1
    if left[0] < 0:
        write(file, more[: len(more) // 3])
        os.kill(os.getpid(), signal.SIGKILL)
    write(file, more)

predict_io._write = killed_in_the_middle
sys.exit(main(sys.argv[1:]))
"""


def test_what_was_killed_in_the_middle_of_a_line_is_gone_on_with(masked, tmp_path, capfd):
    rows = [{"id": number, "text": f"fox {number} [MASK]"} for number in range(10)]
    output = tmp_path / "out.jsonl"
    command = ["predict", masked, "--input", written(tmp_path / "in.jsonl", *rows), "--output", str(output)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *command], timeout=120, check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    left = output.read_bytes()
    assert left.count(b"\n") == 4 and not left.endswith(b"\n")
    assert main(command) == 0
    assert "goes on after line 4" in capfd.readouterr().err
    assert [row["id"] for row in rows_of(output)] == list(range(10))
    assert output.read_bytes().startswith(left)
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_and_an_interruption_leave_what_can_be_gone_on_with(masked, tmp_path, monkeypatch, capfd, stop):
    rows = [{"id": number, "text": f"fox {number} [MASK]"} for number in range(5)]
    output = tmp_path / "out.jsonl"
    command = ["predict", masked, "--input", written(tmp_path / "in.jsonl", *rows), "--output", str(output)]
    write, room = predict_io._write, [2]

    def stopped(file, more):
        room[0] -= 1
        if room[0] < 0:
            write(file, more[:7])
            raise stop
        write(file, more)

    with monkeypatch.context() as patch:
        patch.setattr(lines, "_write", stopped)
        patch.setattr(predict, "WRITTEN", 1)
        code = main(command)
    said = capfd.readouterr().err.splitlines()[-1]
    if isinstance(stop, OSError):
        assert code == 2
        assert said.endswith(
            "out.jsonl: could not be written on (No space left on device); mend that, and the same "
            "command goes on from here"
        )
    else:
        assert (code, said) == (130, "deberta-jax predict: interrupted")
    assert output.read_bytes().count(b"\n") == 2
    assert main(command) == 0
    assert [row["id"] for row in rows_of(output)] == list(range(5))


def test_standard_input_is_read_and_standard_output_written(masked, monkeypatch, capfd):
    read, write = os.pipe()
    os.write(write, GOOD + b"\n" + GOOD)
    os.close(write)
    former = os.dup(0)
    os.dup2(read, 0)
    try:
        assert main(["predict", masked, "--input", "-", "--output", "-"]) == 0
    finally:
        os.dup2(former, 0)
        os.close(former)
        os.close(read)
    assert [row["text"] for row in printed(capfd)] == ["a [MASK]"] * 2


def test_a_reader_that_has_enough_is_no_error(masked, capfd):
    read, write = os.pipe()
    os.close(read)
    former = os.dup(1)
    os.dup2(write, 1)
    os.close(write)
    try:
        with pytest.raises(SystemExit) as stop:
            main(["predict", masked, "--text", "a [MASK]"])
    finally:
        os.dup2(former, 1)
        os.close(former)
    assert stop.value.code == 141
    assert "Broken" not in capfd.readouterr().err


def test_a_full_device_is_told_in_one_line(masked, capfd):
    assert main(["predict", masked, "--text", "a [MASK]", "--output", "/dev/full"]) == 2
    assert capfd.readouterr().err.splitlines()[-1] == "deberta-jax predict: No space left on device"


def test_hidden_states_and_attentions_are_written_beside_the_output(folders, tmp_path):
    rows = [{"text": "The fox", "pair": "the dog"}, {"text": "no"}, {"text": "fox " * 100}]
    source, output = written(tmp_path / "in.jsonl", *rows), tmp_path / "out.jsonl"
    parts = ["--return", "hidden_states", "attentions"]
    model = folders["sequence_classification"]
    assert main(["predict", model, "--input", source, "--output", str(output), *parts]) == 2
    found = rows_of(output)
    assert [row.get("arrays") for row in found] == [
        "out.jsonl.arrays/00000001.npz",
        "out.jsonl.arrays/00000002.npz",
        None,
    ]
    assert found[2]["error"] == "--return: 302 tokens with the special ones, at most 32 are wanted"
    model, tokenizer = dj.from_pretrained(model, "sequence_classification")
    traced = dj.activations(model, tokenizer, "The fox", "the dog")
    with np.load(tmp_path / found[0]["arrays"]) as arrays:
        assert arrays["tokens"].tolist() == traced.tokens
        assert (arrays["offsets"] == traced.offsets).all()
        assert (arrays["hidden_states"] == traced.hidden_states).all()
        assert (arrays["attentions"] == traced.attentions).all()
    assert main(["predict", folders["masked_lm"], "--text", "[MASK]", "--output", str(tmp_path / "o"), *parts[:2]]) == 0
    with np.load(tmp_path / "o.arrays" / "00000001.npz") as arrays:
        assert set(arrays) == {"tokens", "offsets", "hidden_states"}


def test_it_is_said_whether_masks_go_through_the_enhanced_mask_decoder(masked, tmp_path, capfd):
    assert main(["predict", masked, "--text", "a [MASK]"]) == 0
    out, err = capfd.readouterr()
    assert err == "masks are filled through the enhanced mask decoder\n"
    folder = shutil.copytree(masked, tmp_path / "model")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    del tensors["deberta.embeddings.position_embeddings.weight"]
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    assert main(["predict", str(folder), "--text", "a [MASK]"]) == 0
    other, err = capfd.readouterr()
    assert "no position embeddings in the file; masks are filled from the last layer" in err
    assert json.loads(other)["prediction"] != json.loads(out)["prediction"]


def test_the_generator_of_a_pair_fills_masks(folders, tmp_path, capfd):
    folder = shutil.copytree(folders["masked_lm"], tmp_path / "model")
    parts = {"generator": folders["masked_lm"], "discriminator": folders["replaced_token_detection"]}
    tensors = {
        f"{part}.{name}": tensor
        for part, its in parts.items()
        for name, tensor in safetensors.numpy.load_file(Path(its) / "model.safetensors").items()
    }
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    found = []
    for words in ([folders["masked_lm"]], [str(folder), "--generator"]):
        assert main(["predict", *words, "--text", "a [MASK]"]) == 0
        found += printed(capfd)
    assert found[0] == found[1]
    assert main(["predict", str(folder), "--text", "a fox", "--task", "replaced-tokens"]) == 0


def test_bfloat16_is_computed_in_and_written_as_numbers(folders, capfd):
    assert main(["predict", folders[None], "--text", "a fox", "--task", "embeddings", "--dtype", "bfloat16"]) == 0
    [half] = printed(capfd)
    assert main(["predict", folders[None], "--text", "a fox", "--task", "embeddings"]) == 0
    [full] = printed(capfd)
    difference = np.abs(np.subtract(half["prediction"], full["prediction"])).max()
    assert 0 < difference < 0.2


@pytest.mark.parametrize(
    ("head", "words", "said"),
    [
        (None, "--text x", "config.json names no task; say which by --task; the file serves embeddings"),
        (None, "--text x --task fill-mask", "has no head for fill-mask; the file serves embeddings"),
        ("masked_lm", "--text x --task classification", "has no head for classification; the file serves fill-mask,"),
        ("sequence_classification", "--text x --task token-classification", "the file serves classification,"),
        ("token_classification", "--text x --task classification", "the file serves token-classification, embeddings"),
        ("masked_lm", "", "fill-mask needs --text, or a file of examples: --input"),
        ("question_answering", "--question x", "question-answering needs --context, or"),
        ("question_answering", "--question x --question y --context z", "2 of --question and 1 of --context: each"),
        ("question_answering", "--text x", "--text: of no use for question-answering, which takes --question and --c"),
        ("masked_lm", "--text x --input y", "--text and --input: give one of them"),
        ("masked_lm", "--input nowhere.jsonl", "nowhere.jsonl: no such file"),
        ("masked_lm", "--input .", ".: Is a directory"),
        ("masked_lm", "--text x --output .", ". is a folder: name a file with --output"),
        ("masked_lm", "--text x --labels a", "--labels is for zero-shot, and the task is fill-mask"),
        ("masked_lm", "--text x --pooling cls", "--pooling is for embeddings, and the task is fill-mask"),
        ("masked_lm", "--text x --top 0", "top is 0; it must be at least 1"),
        ("masked_lm", "--text x --max-length 2", "max_length is 2, at least 3 is wanted"),
        ("masked_lm", "--text x --max-length 64", "max_length is 64, the model has 32 absolute positions"),
        ("masked_lm", "--text x --generator", "no generator; expected pytorch_model.generator.bin"),
        ("masked_lm", "--text x --return attentions", "--return writes arrays beside the output: name a file"),
        ("multiple_choice", "--text x --choices y --return attentions --output o", "multiple-choice makes several"),
        ("sequence_classification", "--text x --task zero-shot", "zero-shot needs the labels to choose from: --labels"),
        ("sequence_classification", "--text x --task zero-shot --labels a --template b", "has no {}, where the label"),
        ("masked_lm", "--text x --revision main", "a local folder has no revision main"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(folders, capfd, monkeypatch, tmp_path, head, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", folders[head], *words.split()]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("deberta-jax predict: ")
    assert err.count("\n") == 1
    assert said in err
    assert not os.listdir(tmp_path)


def test_a_model_without_a_tokenizer_and_a_folder_without_a_model_are_refused(masked, tmp_path, capfd):
    assert main(["predict", str(tmp_path), "--text", "x"]) == 2
    assert "config.json: no such file" in capfd.readouterr().err
    folder = shutil.copytree(masked, tmp_path / "model")
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    assert main(["predict", str(folder), "--text", "x"]) == 2
    assert "holds no tokenizer" in capfd.readouterr().err


def test_a_number_that_a_model_makes_none_of_is_an_error_of_its_line(folders, tmp_path, capfd):
    folder = shutil.copytree(folders["sequence_classification"], tmp_path / "model")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["classifier.bias"] = np.full_like(tensors["classifier.bias"], np.nan)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    assert main(["predict", str(folder), "--text", "x"]) == 2
    assert printed(capfd) == [{"line": 1, "error": "the result has a number that is infinite or none (NaN)"}]


def test_the_help_tells_of_tasks_bad_lines_and_interruptions(capfd):
    with pytest.raises(SystemExit) as stop:
        main(["predict", "--help"])
    assert not stop.value.code
    said = " ".join(capfd.readouterr().out.replace("│", " ").split())
    for part in ("fill-mask", '{"line": 7, "error": "..."}', "exit code is 2", "OUTPUT.progress", "(default: 5)"):
        assert part in said


def test_the_input_is_not_taken_for_the_output(masked, tmp_path, capfd):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "A [MASK]."}\n')
    assert main(["predict", masked, "--input", str(path), "--output", str(path)]) == 2
    assert "in.jsonl is the --input: name another file with --output" in capfd.readouterr().err
    assert path.read_text() == '{"text": "A [MASK]."}\n'


def test_a_pair_that_no_use_is_made_of_is_a_bad_line(folders, tmp_path, capfd):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "A fox.", "pair": "A dog."}\n{"text": "A fox."}\n')
    options = ["--task", "zero-shot", "--labels", "sport", "--several", "--input", str(path)]
    assert main(["predict", folders["sequence_classification"], *options]) == 2
    out, err = capfd.readouterr()
    assert 'in.jsonl, line 1: has a "pair", which is of no use for this task' in err
    assert [sorted(json.loads(line)) for line in out.splitlines()] == [["error", "line"], ["prediction", "text"]]


def test_an_answer_is_always_given_without_a_threshold(folders, capfd):
    asked = ["--question", "Who eats?", "--context", "The fox eats what it finds."]
    always = ["--no-answer-threshold", "None", "--longest", "3"]
    assert main(["predict", folders["question_answering"], *asked, *always]) == 0
    assert json.loads(capfd.readouterr().out)["prediction"]["text"]
