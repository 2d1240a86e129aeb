"""The output of `deberta-jax predict`, and how it is resumed."""

import errno
import os
import shutil
import subprocess
import sys

import pytest
from json_lines import read_lines, write_lines

from deberta_jax.cli import predict, predict_output
from deberta_jax.cli.main import main
from deberta_jax.cli.predict_output import open_resumable
from deberta_jax.errors import InputError
from deberta_jax.files import lock_folder

LINES = [b'{"id": %d, "text": "fox"}\n' % number for number in range(5)]
LINES[3] = b'{"line": 4, "error": "no text", "id": 3}\n'
SETTINGS = {"task": "fill-mask", "labels": ("a",), "input": "0" * 64}


def write_rest(path, stop_after=None):
    """Write the lines that an output lacks, one by one; raise KeyboardInterrupt after some of them."""
    with open_resumable(path, SETTINGS) as output:
        for number, line in enumerate(LINES[output.lines :]):
            if number == stop_after:
                raise KeyboardInterrupt
            output.write(line)
        return output


def test_an_output_cut_at_any_byte_is_completed_to_the_same_content(tmp_path):
    path, progress = tmp_path / "out.jsonl", tmp_path / "out.jsonl.progress"
    content = b"".join(LINES)
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for cut in (0, 1, ends[0] - 1, ends[0], ends[3] + 5, ends[-1] - 1, ends[-1]):
        with pytest.raises(KeyboardInterrupt):
            write_rest(path, stop_after=1)
        assert os.listdir(progress) != []
        path.write_bytes(content[:cut])
        output = write_rest(path)
        assert (output.lines, output.errors) == (content[:cut].count(b"\n"), int(cut >= ends[3]))
        assert path.read_bytes() == content
        assert os.listdir(tmp_path) == ["out.jsonl"]
        path.unlink()


def test_an_output_without_a_complete_line_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_rest(tmp_path / "out.jsonl", stop_after=0)
    assert os.listdir(tmp_path) == []


def test_an_output_without_a_complete_line_is_started_again_with_other_settings(tmp_path):
    path = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        write_rest(path, stop_after=1)
    path.write_bytes(LINES[0][:7])
    with open_resumable(path, SETTINGS | {"task": "embeddings"}) as output:
        output.write(LINES[1])
    assert path.read_bytes() == LINES[1]


def test_a_complete_output_is_not_overwritten(tmp_path):
    path = tmp_path / "out.jsonl"
    write_rest(path)
    with pytest.raises(InputError, match="exists and is not an interrupted output: delete it, or name another file"):
        write_rest(path)
    assert path.read_bytes() == b"".join(LINES)
    assert os.listdir(tmp_path) == ["out.jsonl"]


@pytest.fixture(scope="module")
def interrupted_run(model_folders, tmp_path_factory):
    """A folder with an input, a model, and an output that was interrupted after its last line but before its end."""
    folder = tmp_path_factory.mktemp("interrupted")
    rows = [{"id": number, "text": f"fox {number} [MASK]"} if number != 3 else {"id": 3} for number in range(9)]
    words = ["--input", write_lines(folder / "in.jsonl", *rows), "--output", str(folder / "out.jsonl")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict_output, "_remove_settings", lambda started: None)
        assert main(["predict", model_folders["masked_lm"], *words]) == 2
    return folder


@pytest.fixture
def interrupted(masked_lm, interrupted_run, tmp_path, capfd):
    """The command of an interrupted output, the output, and its content."""
    shutil.copytree(interrupted_run, tmp_path, dirs_exist_ok=True)
    output = tmp_path / "out.jsonl"
    command = ["predict", masked_lm, "--input", str(tmp_path / "in.jsonl"), "--output", str(output)]
    capfd.readouterr()
    return command, output, output.read_bytes()


def test_the_same_command_resumes_after_the_last_complete_line(interrupted, capfd):
    command, output, content = interrupted
    lines = content.splitlines(keepends=True)
    output.write_bytes(b"".join(lines[:5]) + lines[5][:9])
    assert main(command) == 2
    assert output.read_bytes() == content
    assert not output.with_name("out.jsonl.progress").exists()
    first, *_, last = capfd.readouterr().err.splitlines()
    assert first == f"{output}: resuming after line 5"
    assert last.startswith("deberta-jax predict: 1 of 9 lines are invalid; ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--top-k", "3"], "top_k (5 before, 3 now)"),
        (["--task", "embeddings"], "task (fill-mask before, embeddings now)"),
        (["--dtype", "bfloat16"], "dtype (float32 before, bfloat16 now)"),
        (["--max-length", "12"], "max_length (none before, 12 now)"),
        (["--return", "attentions"], "return ( before, attentions now)"),
        ("input", "input ("),
        ("model", "model ("),
        ("stream", "input ("),
    ],
)
def test_an_output_is_not_resumed_with_other_settings(interrupted, capfd, tmp_path, change, message):
    command, output, content = interrupted
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
    assert main(command) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert f"{output} was started with other settings: " in error
    assert message in error
    assert output.read_bytes() == content


def test_settings_that_cannot_be_read_are_reported(interrupted, capfd):
    command, output, _ = interrupted
    (output.with_name("out.jsonl.progress") / "settings.json").write_text("")
    assert main(command) == 2
    assert "out.jsonl.progress/settings.json: not valid JSON" in capfd.readouterr().err


def test_an_output_in_the_folder_of_the_model_does_not_change_the_models_checksum(masked_lm, tmp_path):
    folder = shutil.copytree(masked_lm, tmp_path / "model")
    before = predict._sha256([folder])
    assert main(["predict", str(folder), "--text", "a [MASK]", "--output", str(folder / "out.json")]) == 0
    assert predict._sha256([folder]) == before


def test_an_output_is_resumed_after_the_model_moved_and_with_other_batches(interrupted, tmp_path):
    command, output, content = interrupted
    command[1] = shutil.copytree(command[1], tmp_path / "moved").as_posix()
    output.write_bytes(content[: len(content) // 2])
    assert main([*command, "--batch-tokens", "4200"]) == 2
    rows = read_lines(output)
    assert [row["id"] for row in rows] == list(range(9))
    assert [row["id"] for row in rows if "error" in row] == [3]


def test_only_one_command_writes_an_output(interrupted, capfd):
    command, output, content = interrupted
    with lock_folder(output.with_name("out.jsonl.progress")):
        assert main(command) == 2
    assert "out.jsonl: another process is writing this" in capfd.readouterr().err
    assert output.read_bytes() == content


KILLED = """
import os, signal, sys
from deberta_jax.cli import predict, predict_output
from deberta_jax.cli.main import main

predict.CHUNK = predict.LINES_PER_WRITE = 2
remaining = [2]
write = predict_output.write_all

def killed_in_the_middle(file, lines):
    remaining[0] -= 1
    if remaining[0] < 0:
        write(file, lines[: len(lines) // 3])
        os.kill(os.getpid(), signal.SIGKILL)
    write(file, lines)

predict_output.write_all = killed_in_the_middle
sys.exit(main(sys.argv[1:]))
"""


def test_an_output_is_resumed_after_the_process_was_killed_in_the_middle_of_a_line(masked_lm, tmp_path, capfd):
    rows = [{"id": number, "text": f"fox {number} [MASK]"} for number in range(10)]
    output = tmp_path / "out.jsonl"
    command = ["predict", masked_lm, "--input", write_lines(tmp_path / "in.jsonl", *rows), "--output", str(output)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *command], timeout=120, check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    before = output.read_bytes()
    assert before.count(b"\n") == 4 and not before.endswith(b"\n")
    assert main(command) == 0
    assert "resuming after line 4" in capfd.readouterr().err
    assert [row["id"] for row in read_lines(output)] == list(range(10))
    assert output.read_bytes().startswith(before)
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_output_can_be_resumed_after_a_full_disk_and_after_ctrl_c(masked_lm, tmp_path, monkeypatch, capfd, stop):
    rows = [{"id": number, "text": f"fox {number} [MASK]"} for number in range(5)]
    output = tmp_path / "out.jsonl"
    command = ["predict", masked_lm, "--input", write_lines(tmp_path / "in.jsonl", *rows), "--output", str(output)]
    write, remaining = predict_output.write_all, [2]

    def stopping(file, lines):
        remaining[0] -= 1
        if remaining[0] < 0:
            write(file, lines[:7])
            raise stop
        write(file, lines)

    with monkeypatch.context() as patch:
        patch.setattr(predict_output, "write_all", stopping)
        patch.setattr(predict, "LINES_PER_WRITE", 1)
        code = main(command)
    errors = capfd.readouterr().err.splitlines()
    if isinstance(stop, OSError):
        assert code == 2
        message = "writing failed (No space left on device): fix this, and run the same command again to resume"
        assert errors[-1] == f"deberta-jax predict: {output}: {message}"
    else:
        assert code == 130
        assert errors[-2] == f"{output} is incomplete: run the same command again to resume"
        assert errors[-1].startswith("deberta-jax predict: interrupted")
    assert output.read_bytes().count(b"\n") == 2
    assert main(command) == 0
    assert [row["id"] for row in read_lines(output)] == list(range(5))


def test_a_closed_pipe_ends_the_command_without_a_message(masked_lm, capfd):
    read, write = os.pipe()
    os.close(read)
    original = os.dup(1)
    os.dup2(write, 1)
    os.close(write)
    try:
        code = main(["predict", masked_lm, "--text", "a [MASK]"])
    finally:
        os.dup2(original, 1)
        os.close(original)
    assert code == 141
    assert "Broken" not in capfd.readouterr().err


def test_a_full_device_is_reported_in_one_line(masked_lm, capfd):
    assert main(["predict", masked_lm, "--text", "a [MASK]", "--output", "/dev/full"]) == 2
    assert capfd.readouterr().err.splitlines()[-1] == "deberta-jax predict: No space left on device"


def test_the_input_is_not_overwritten_by_the_output(masked_lm, tmp_path, capfd):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "A [MASK]."}\n')
    assert main(["predict", masked_lm, "--input", str(path), "--output", str(path)]) == 2
    assert "in.jsonl is the --input: name another file with --output" in capfd.readouterr().err
    assert path.read_text() == '{"text": "A [MASK]."}\n'
