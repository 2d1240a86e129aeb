import io
import multiprocessing
import os

import pytest

from deberta_jax.errors import InputError
from deberta_jax.files import (
    lock_folder,
    lock_output,
    make_folder,
    read_json,
    replace_file,
    write_all,
    write_json,
    write_text,
)


def test_a_file_is_written_completely_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "before\r\n")
    assert path.read_bytes() == b"before\r\n"

    def fail(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"a.txt: cannot be written \(No space left on device\)"):
        replace_file(path, fail)
    assert path.read_bytes() == b"before\r\n"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_json_is_read_back(tmp_path):
    path = write_json(tmp_path / "a.json", {"name": "Köln", "values": [1, None]})
    assert read_json(path) == {"name": "Köln", "values": [1, None]}
    assert "Köln" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not valid JSON"), (b"[1]", "expected a JSON object, found list"), (b"\xff", "not valid JSON")],
)
def test_files_that_are_no_json_objects_are_named(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"a.json: {message}"):
        read_json(path)
    with pytest.raises(InputError, match=r"b.json: no such file"):
        read_json(tmp_path / "b.json")


def test_a_folder_that_cannot_be_created_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/run: cannot create this folder \(Not a directory\)"):
        make_folder(tmp_path / "file" / "run")


def _try_to_lock(folder, answers):
    try:
        with lock_folder(folder):
            answers.put("locked")
    except InputError as error:
        answers.put(str(error))


def test_a_locked_folder_is_refused_to_another_process(tmp_path):
    processes = multiprocessing.get_context("spawn")
    answers = processes.Queue()
    with lock_folder(tmp_path):
        process = processes.Process(target=_try_to_lock, args=(tmp_path, answers))
        process.start()
        assert "another process is using this folder" in answers.get(timeout=60)
        process.join()


def test_a_folder_that_stays_empty_is_removed_with_the_parents_created_for_it(tmp_path):
    folder = tmp_path / "runs" / "a"
    with pytest.raises(InputError), lock_folder(folder):
        raise InputError("rejected")
    assert os.listdir(tmp_path) == []
    with lock_folder(folder):
        (folder / "config.json").touch()
    assert (folder / "config.json").exists()
    existing = tmp_path / "existing"
    existing.mkdir()
    with lock_folder(existing):
        pass
    assert existing.is_dir()


def _try_to_write(path, answers):
    try:
        with lock_output(path, ".partial"):
            answers.put("locked")
    except InputError as error:
        answers.put(str(error))


def test_an_output_is_written_by_one_process_at_a_time_and_the_lock_leaves_nothing(tmp_path):
    path = tmp_path / "new" / "spm.model"
    processes = multiprocessing.get_context("spawn")
    answers = processes.Queue()
    with lock_output(path, ".partial"):
        process = processes.Process(target=_try_to_write, args=(path, answers))
        process.start()
        assert answers.get(timeout=60) == (
            f"{path}: another process is writing this; wait for it, or choose another output"
        )
        process.join()
    assert os.listdir(tmp_path) == []
    # A killed process leaves the folder, which does not keep others out.
    path.with_name("spm.model.partial").mkdir(parents=True)
    with lock_output(path, ".partial"):
        path.touch()
    assert os.listdir(path.parent) == ["spm.model"]


def test_a_file_takes_all_bytes_or_an_error_is_raised():
    class Short(io.RawIOBase):
        content = b""

        def write(self, part):
            self.content += bytes(part[:3])
            return len(part[:3])

    file = Short()
    write_all(file, b"0123456789")
    assert file.content == b"0123456789"
