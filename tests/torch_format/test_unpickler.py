import argparse
import os
import pickle
import subprocess
import time
import tracemalloc
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
from toy_torch_files import literal, refusal, state_dict, tensor, write_legacy, write_plain, write_zip

from deberta_jax.torch_format.file import read_torch_file


@pytest.mark.parametrize("write", [write_zip, write_legacy, write_plain])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_read_unchanged(write, protocol, tmp_path):
    repeated = ["Ġthe", 1]
    table = {
        "encoder": {"Ġthe": 5, "é": -7, ("a", "b"): 2**70},
        "vocab": [("Ġthe", 0.5), (None, True, False), (), [], {}, (1, 2, 3, 4)],
        "bytes": [b"\x00\xff", b""],
        "sets": [{1, "a"}, set()],
        "again": [repeated, repeated],
        # Longer than a batch of items, with more objects than a byte can count.
        "many": [*range(65000, 66000), *map(str, range(300))],
    }
    write(tmp_path / "bpe_encoder.bin", pickle.dumps(table, protocol))
    assert read_torch_file(tmp_path / "bpe_encoder.bin") == table


def test_an_ordered_dict_with_metadata_is_read_as_a_dict(tmp_path):
    values = OrderedDict(a=1, b=OrderedDict())
    values._metadata = OrderedDict(version=1)
    write_plain(tmp_path / "f.bin", pickle.dumps(values, 2))
    loaded = read_torch_file(tmp_path / "f.bin")
    assert type(loaded) is dict and loaded == {"a": 1, "b": {}}


@pytest.mark.parametrize(
    "name", ["DeBERTa.deberta.config\nModelConfig", "deberta.config\nAbsModelConfig", "argparse\nNamespace"]
)
def test_a_config_is_read_as_its_attributes(name, tmp_path):
    config = f"c{name}\n".encode() + b")\x81" + literal({"hidden_size": 768, "__class__": "odd"}) + b"b"
    write_zip(tmp_path / "f.bin", state_dict(config=config, w=tensor("0", "LongStorage", 1, (), ())), {"0": bytes(8)})
    loaded = read_torch_file(tmp_path / "f.bin")
    assert type(loaded["config"]) is SimpleNamespace and vars(loaded["config"])["hidden_size"] == 768
    assert loaded["w"].read() == 0


def test_a_nested_config_that_contains_itself_is_read(tmp_path):
    namespace = argparse.Namespace(name="base", inner=argparse.Namespace(layers=[1, 2]))
    namespace.itself = namespace
    write_plain(tmp_path / "f.bin", pickle.dumps(namespace, 2))
    loaded = read_torch_file(tmp_path / "f.bin")
    assert loaded.itself is loaded and loaded.inner.layers == [1, 2]


@pytest.mark.parametrize("number", [np.float64(0.5), np.int32(-3), np.bool_(True)])
def test_numpy_scalars_are_read_as_numbers(number, tmp_path):
    write_plain(tmp_path / "f.bin", pickle.dumps({"n": number}, 2))
    assert read_torch_file(tmp_path / "f.bin") == {"n": number.item()}


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("write", [write_zip, write_legacy, write_plain])
@pytest.mark.parametrize("function", [os.system, eval, exec, subprocess.Popen, getattr, __import__, np.load])
def test_named_functions_are_never_called(function, write, protocol, tmp_path):
    sentinel = tmp_path / "sentinel"
    command = f"open({str(sentinel)!r}, 'w')" if function in (eval, exec) else f"touch {sentinel}"
    write(tmp_path / "f.bin", pickle.dumps({"weight": Call(function, command)}, protocol))
    assert f".{function.__name__}, which files of tensors never need" in refusal(tmp_path / "f.bin")
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("operations", "problem"),
    {
        # Names that lead from something harmless to something else.
        b"\x8c\x0bcollections\x8c\x20OrderedDict.__init__.__globals__\x93": "to collections.OrderedDict.__init__",
        b"ctorch\nload\n": "refers to torch.load",
        b"ctorch.storage\nFloatStorage.from_buffer\n": "refers to torch.storage.FloatStorage.from_buffer",
        b"cdeberta.config\nos\n": "refers to deberta.config.os",
        b"ccopyreg\n_reconstructor\n": "refers to copyreg._reconstructor",
        b"ctorch._utils\n_rebuild_sparse_tensor\n": "refers to torch._utils._rebuild_sparse_tensor",
        b"ctorch\nFooStorage\n": "refers to torch.FooStorage",
        b"cos\x1b[31m\nsystem\n": r"refers to 'os\x1b[31m'.system",
        b"NN\x93": "a name that is not text",
        # Attributes of the replacement of a function, and calls of other values.
        b"ccollections\nOrderedDict\n}X\x04\0\0\0callNsb": "adds items to a Function, not to a dict",
        b"]}b": "adds items to a list",
        b"NN\x87": "IndexError",
        b"]NR": "calls a list",
        b"ctorch\nFloatStorage\n)R": "calls a",
        b"ccollections\nOrderedDict\n(NtR": "TypeError",
        b"cargparse\nNamespace\n}\x85R": "TypeError",
        b"cargparse\nNamespace\n)RNb": "TypeError",
        b"cnumpy\ndtype\n" + literal(("O8", False, True)) + b"R": "refers to the numpy type O8",
        b"cnumpy.core.multiarray\nscalar\n" + literal(("O", 8 * "a")) + b"R": "a number without a type|TypeCheckError",
        b"cnumpy\ndtype\n" + literal(("f8", False, True)) + b"R" + literal((3, ">", None)) + b"b": "big-endian",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nSize\nN)}tR": "a tensor of an unknown class",
        # A forged storage.
        b"ctorch._utils\n_rebuild_tensor\n(cargparse\nNamespace\n)RK\0\x86K\0))tR": "AttributeError|TypeError",
        # Operations of old protocols and of other pickles.
        b"(ios\nsystem\n": "the pickle operation INST",
        b"\x82\x01": "the pickle operation EXT1",
        b"Pstorage\n": "the pickle operation PERSID",
        b"N2": "the pickle operation DUP",
        b"NQ": "refers to the storage of a tensor where none can be",
        # Damage.
        b"r\xff\xff\xff\xff": "IndexError",
        b"Nr\xff\xff\xff\xff\xff": "ValueError",
        b"X\xff\xff\xff\xffabc": "ValueError",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x7fabc": "ValueError",
        b"h\x07": "KeyError",
        b"}]Ns": "a list as a key",
        b"\x8b\x00\x08\0\0" + b"\x7f" * 2048: "a number of 16383 bits",
        b"t": "IndexError",
        b"NN": "an incomplete pickle",
        b"(N": "an incomplete pickle",
        b"": "an incomplete pickle",
    }.items(),
)
def test_a_pickle_that_is_more_than_data_is_refused(operations, problem, tmp_path):
    write_plain(tmp_path / "f.bin", b"\x80\x04" + operations + b".")
    line = refusal(tmp_path / "f.bin")
    assert any(alternative in line for alternative in problem.split("|"))


@pytest.mark.parametrize(
    "operations",
    [
        # A tuple of pairs of itself, 100 deep, as a key.
        b"}" + b")" + b"q\0h\0\x86" * 100 + b"Ns",
        # One long list converted to a tuple again and again.
        b"](" + b"N" * 10_000 + b"eq\0" + b"ctorch\nSize\n" + b"q\1" + b"h\1h\0\x85R0" * 1000,
        b"](" + b"N" * 10_000 + b"eq\0" + b"ctorch\nSize\nq\1(" + b"h\1h\0\x85R" * 1000 + b"t\x86",
    ],
)
def test_a_small_pickle_cannot_take_much_time_or_memory(operations, tmp_path):
    write_plain(tmp_path / "f.bin", b"\x80\x04" + operations + b".")
    start = time.perf_counter()
    tracemalloc.start()
    try:
        refusal(tmp_path / "f.bin")
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < 20
