"""The runs of `faults.py`: small commands, the processes that run them, and digests of their results."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

METRICS = "metrics.jsonl"
# Metrics that differ between equal runs.
_TIMES = {"seconds", "tokens_per_second", "mfu"}
# A process that needs longer than this to end hangs.
HANG_SECONDS = 300.0
TIMEOUT_SECONDS = 15.0
_WORDS = "the cat sat on a mat while dogs ran over green hills and birds sang in old trees near quiet rivers"
_TRAIN = ["--batch-size", "8", "--seed", "1", "--checkpoint-every", "2", "--evaluate-every", "4"]
_TEXT = ["--data.shards", "shards", "--tokenizer", "tokenizer/spm.model", "--data.length", "32"]
_SIZE = ["--steps", "8", "--data.evaluate-batches", "2", "--dtype", "float32"]


class Run(NamedTuple):
    """A command, the number of its processes, and the files that are its result, relative to its folder."""

    name: str
    words: Sequence[str]
    results: Sequence[str]
    processes: int = 1

    @property
    def folder(self) -> str:
        """The folder that the command writes."""
        return "new_shards" if self.name == "prepare" else "run"

    @property
    def reads_shards(self) -> bool:
        return "--data.shards" in self.words


class End(NamedTuple):
    """How the processes of a run ended: exit codes, None for one that hung, and their errors, one line each."""

    codes: list[int | None]
    errors: list[str]
    has_traceback: bool

    @property
    def is_hanging(self) -> bool:
        return None in self.codes


def _pretrain(objective: str) -> list[str]:
    return ["pretrain", "tiny", "--objective", objective, *_TEXT, *_SIZE, *_TRAIN, "--folder", "run"]


def all_runs() -> list[Run]:
    """Every kind of run, with one process and with several."""
    prepare = "prepare --files text.txt --tokenizer tokenizer/spm.model --output new_shards --length 32 --shards 12"
    finetune = "finetune generic --data table --model model --max-length 16 --epochs 1 --dtype float32 --folder run"
    kinds = {
        "prepare": (prepare.split(), ["new_shards/*.arrayrecord", "new_shards/manifest.json"], (1,)),
        "mlm": (_pretrain("mlm"), ["run/model/model.safetensors", "run/metrics.jsonl"], (1, 2, 4)),
        "rtd": (_pretrain("rtd"), ["run/*/model.safetensors", "run/metrics.jsonl"], (1, 2, 4)),
        "finetune": ([*finetune.split(), *_TRAIN], ["run/model/model.safetensors", "run/metrics.jsonl"], (1, 2, 4)),
    }
    return [
        Run(name, words, results, number) for name, (words, results, numbers) in kinds.items() for number in numbers
    ]


def make_inputs(folder: Path) -> None:
    """Make the text, tokenizer, shards, table and model that the runs read, unless they are complete."""
    if (folder / "model").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = _WORDS.split()
    texts = [" ".join(words[(k * k + 3 * i * k + i) % len(words)] for i in range(30)) for k in range(600)]
    (folder / "text.txt").write_text("\n\n".join(texts) + "\n")
    (folder / "table").mkdir(exist_ok=True)
    for name, rows in (("train", texts[:80]), ("dev", texts[80:100])):
        lines = [f"{text[:40]}\t{'ab'[len(text) % 2]}" for text in rows]
        (folder / f"table/{name}.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    tokenizer = "tokenizer --files text.txt --output tokenizer/spm.model --vocabulary 290"
    shards = "prepare --files text.txt --tokenizer tokenizer/spm.model --output shards --length 32 --shards 24"
    for command in (tokenizer, shards):
        _check(folder, command.split())
    _check(folder, [*_pretrain("mlm"), "--steps", "1"])
    (folder / "run/model").rename(folder / "model")
    shutil.rmtree(folder / "run")


def copy_inputs(inputs: Path, case: Path) -> Path:
    """A new folder for a run, with the files that it reads."""
    shutil.rmtree(case, ignore_errors=True)
    return Path(shutil.copytree(inputs, case))


def _check(folder: Path, words: Sequence[str]) -> None:
    end = Processes(Run("", words, ()), folder).finish()
    if end.codes != [0]:
        raise SystemExit(f"{words}: {end}")


class Processes:
    """The processes of a run, started in its folder; their errors go to files there."""

    def __init__(self, run: Run, folder: Path, extra: Mapping[str, str] | None = None):
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            address = f"localhost:{probe.getsockname()[1]}"
        variables = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={1 if run.processes > 1 else 2}",
            "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            # A limit of file sizes must not truncate compiled modules of Python.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        variables |= extra or {}
        self.all: list[subprocess.Popen[bytes]] = []
        # The index of a process that was suspended until the others ended.
        self.suspended: int | None = None
        for index in range(run.processes):
            options = ["--processes.join", "--processes.coordinator", address, "--processes.count", str(run.processes)]
            options += ["--processes.index", str(index), "--processes.timeout", str(TIMEOUT_SECONDS)]
            words = [sys.executable, "-m", "deberta_jax", *run.words, *(options if run.processes > 1 else [])]
            with self._errors(index).open("w") as errors:
                self.all.append(
                    subprocess.Popen(
                        words, cwd=folder, env=os.environ | variables, stdout=subprocess.DEVNULL, stderr=errors
                    )
                )

    @property
    def is_running(self) -> bool:
        return any(process.poll() is None for process in self.all)

    def finish(self, seconds: float = HANG_SECONDS) -> End:
        """Wait for the processes; those that do not end in time are killed and reported as hanging."""
        limit = time.monotonic() + seconds
        codes: list[int | None] = []
        for process in self.all:
            try:
                codes.append(process.wait(max(limit - time.monotonic(), 0.1)))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                codes.append(None)
        texts = [self._errors(index).read_text(errors="replace") for index in range(len(self.all))]
        errors = [line for text in texts for line in text.splitlines() if line.startswith("deberta-jax")]
        return End(codes, errors, any("Traceback (most recent call last)" in text for text in texts))

    def _errors(self, index: int) -> Path:
        return self.folder / f"errors-{index}.txt"


def skipped_steps(folder: Path) -> int:
    """The steps that a run skipped, because their loss or gradient was not finite."""
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    return sum(json.loads(line).get("skipped_in_row", 0) > 0 for line in lines)


def digests(run: Run, folder: Path) -> dict[str, list[str]]:
    """Digests of the results of a run by file: of `metrics.jsonl` one of each line, without its times."""
    by_file = {}
    for path in sorted(path for pattern in run.results for path in folder.glob(pattern)):
        parts = [path.read_bytes()]
        if path.name == METRICS:
            lines = [json.loads(line) for line in parts[0].splitlines()]
            parts = [json.dumps({k: v for k, v in line.items() if k not in _TIMES}).encode() for line in lines]
        by_file[str(path.relative_to(folder))] = [hashlib.sha256(part).hexdigest() for part in parts]
    return by_file


def differing_files(expected: dict[str, list[str]], actual: dict[str, list[str]]) -> set[str]:
    """The names of the files that are missing, additional or different."""
    names = expected.keys() | actual.keys()
    return {Path(name).name for name in names if expected.get(name) != actual.get(name)}
