"""Shards of a toy tokenizer, and what they contain."""

from contextlib import contextmanager

from array_record.python.array_record_module import ArrayRecordReader
from distributed import LocalCluster
from toy_text import LENGTH, ToyTokenizer

from deberta_jax.data.manifest import read_manifest
from deberta_jax.data.prepare import prepare
from deberta_jax.data.shards import from_record


def prepare_toy(texts, folder, tokenizer=None, **options):
    return prepare(texts, folder, tokenizer or ToyTokenizer(), **{"length": LENGTH, "shards": 4, **options})


@contextmanager
def one_worker(processes):
    """The address of a dask cluster with one worker, a process or a thread."""
    http = {"dashboard_address": "127.0.0.1:0"}
    with LocalCluster(1, processes=processes, dashboard_address=None, scheduler_kwargs=http) as cluster:
        yield cluster.scheduler_address


def sequences_in(folder):
    sequences = []
    for path in read_manifest(folder).paths(folder):
        reader = ArrayRecordReader(path)
        sequences += [from_record(record) for record in reader.read_all()]
        reader.close()
    return sequences


def shard_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.arrayrecord")}


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())
