"""Signals outside of the training loop: one line, no temporary files, and the same command continues."""

import gc
import importlib
import os
import signal
import time
from contextlib import contextmanager

import pytest
import sentencepiece
from inference_models import random_model
from toy_text import write_texts
from toy_tokenizers import TEXT, write_unigram

from deberta_jax.cli.main import main
from deberta_jax.cli.termination import Terminated, terminable
from deberta_jax.data.manifest import read_manifest
from deberta_jax.hub.pretrained import save_pretrained
from deberta_jax.tokenizers.tokenizer import Tokenizer

STOPPED = "stopped; to continue, run the same command again"


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def default_handler():
    previous = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGTERM, previous)


@pytest.fixture
def prepare(tmp_path, capfd):
    """Run `prepare` with a tokenizer that reads whole words; returns the exit code and the errors."""
    tokenizer, files = write_unigram(tmp_path), write_texts(tmp_path, files=6)

    def run(folder, *options):
        words = ["--files", *files, "--tokenizer", str(tokenizer.path), "--output", str(folder), "--length", "64"]
        code = main(["prepare", *words, "--shards", "6", *options])
        # Workers write to the same file descriptor.
        return code, capfd.readouterr().err

    return run


def test_the_first_signal_raises_and_others_are_ignored():
    def stop_twice():
        with terminable():
            try:
                terminate()
                time.sleep(60)
            finally:
                terminate()

    with pytest.raises(Terminated, match=STOPPED):
        stop_twice()


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background of a shell."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("where", ["destructor", "garbage collector"])
@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_is_not_lost_where_python_drops_exceptions(where, number, error, capfd):
    def send():
        os.kill(os.getpid(), number)
        time.sleep(0.001)

    class SendsInDestructor:
        def __del__(self):
            send()

    def send_in_callback(phase, _):
        gc.callbacks.remove(send_in_callback)
        send()

    def wait():
        with terminable():
            if where == "destructor":
                SendsInDestructor()
            else:
                gc.callbacks.append(send_in_callback)
                gc.collect()
            time.sleep(60)

    started = time.monotonic()
    with pytest.raises(error):
        wait()
    assert time.monotonic() - started < 10
    assert not capfd.readouterr().err


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_an_import_is_completed_first(number, error, tmp_path, monkeypatch):
    """Interrupting an extension while it initializes, or initializing it twice, can crash the process."""
    name = f"slow_import_{int(number)}"
    (tmp_path / f"{name}.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(0.2)\nis_complete = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    imported = []

    def stop_while_importing():
        with terminable():
            imported.append(importlib.import_module(name))
            time.sleep(60)

    started = time.monotonic()
    with pytest.raises(error):
        stop_while_importing()
    assert time.monotonic() - started < 10
    assert imported[0].is_complete
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_caller_stays():
    received = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    with terminable():
        terminate()
    assert received == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_prepare_stops_within_a_shard_and_resumes(prepare, tmp_path, monkeypatch):
    encode, calls = Tokenizer.encode_many, []

    def encode_many(self, texts):
        calls.append(texts)
        if len(calls) == 4:
            terminate()
        return encode(self, texts)

    monkeypatch.setattr(Tokenizer, "encode_many", encode_many)
    folder = tmp_path / "shards"
    assert prepare(folder) == (0, f"deberta-jax prepare: {STOPPED}\n")
    assert not list(folder.glob("*.partial")) and len(list(folder.glob("*.arrayrecord"))) == 1
    assert prepare(folder) == (0, "")
    assert prepare(tmp_path / "whole") == (0, "")
    assert read_manifest(folder) == read_manifest(tmp_path / "whole")


def test_prepare_with_several_workers_stops_and_resumes(prepare, tmp_path, monkeypatch):
    @contextmanager
    def progress_bar(label):
        yield lambda done, total: terminate() if done == 1 else None

    folder = tmp_path / "shards"
    with monkeypatch.context() as patch:
        patch.setattr("deberta_jax.cli.prepare.progress_bar", progress_bar)
        assert prepare(folder, "--workers", "2") == (0, f"deberta-jax prepare: {STOPPED}\n")
    assert not list(folder.glob("*.partial"))
    assert prepare(folder) == (0, "")
    assert prepare(tmp_path / "whole") == (0, "")
    assert read_manifest(folder) == read_manifest(tmp_path / "whole")


@pytest.fixture
def train_tokenizer(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join([TEXT] * 10))

    def run():
        code = main(
            ["tokenizer", "--files", str(text), "--vocabulary", "330", "--output", str(tmp_path / "new" / "spm.model")]
        )
        return code, capsys.readouterr().err

    return run


def test_a_tokenizer_stops_while_it_reads_text(train_tokenizer, tmp_path, monkeypatch):
    def documents(files, options):
        yield TEXT
        terminate()
        for _ in range(10**9):
            yield TEXT

    monkeypatch.setattr("deberta_jax.cli.tokenizer.documents", documents)
    assert train_tokenizer() == (0, f"deberta-jax tokenizer: {STOPPED}\n")
    assert not (tmp_path / "new").exists()


def test_a_tokenizer_stops_while_sentencepiece_trains(train_tokenizer, tmp_path, monkeypatch):
    """Without Python, which would see the signal; the thread is abandoned."""

    def train(sentence_iterator, model_writer, **options):
        assert list(sentence_iterator)
        terminate()
        time.sleep(20)
        model_writer.write(b"late")

    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, "train", train)
    started = time.monotonic()
    assert train_tokenizer() == (0, f"deberta-jax tokenizer: {STOPPED}\n")
    assert time.monotonic() - started < 15
    assert not (tmp_path / "new").exists()


@pytest.fixture
def model(tmp_path):
    tokenizer = write_unigram(tmp_path)
    save_pretrained(tmp_path / "model", random_model("masked_lm"), tokenizer)
    return tmp_path / "model"


def test_a_conversion_stops_and_leaves_nothing(model, tmp_path, monkeypatch, capsys):
    def write_file(path, tensors):
        path.write_bytes(b"half")
        terminate()
        time.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr("deberta_jax.hub.tensors._write_file", write_file)
        assert main(["convert", str(model), str(tmp_path / "new" / "target")]) == 0
    assert capsys.readouterr().err == f"deberta-jax convert: {STOPPED}\n"
    assert not (tmp_path / "new").exists()


def test_predictions_that_are_incomplete_have_another_exit_code_and_resume(model, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out.jsonl"
    (tmp_path / "in.txt").write_text("a [MASK]\n" * 9)
    words = ["predict", str(model), "--input", str(tmp_path / "in.txt"), "--output", str(output)]

    def write_all(file, lines):
        file.write(lines)
        terminate()
        time.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr("deberta_jax.cli.predict.LINES_PER_WRITE", 4)
        patch.setattr("deberta_jax.cli.predict_output.write_all", write_all)
        assert main(words) == 143
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2:] == [
        f"{output} is incomplete: run the same command again to resume", f"deberta-jax predict: {STOPPED}",
    ]  # fmt: skip
    assert len(output.read_text().splitlines()) == 4
    assert main(words) == 0
    assert len(output.read_text().splitlines()) == 9
