import argparse
import os
import pickle
import subprocess
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deberta_jax.errors import InputError
from deberta_jax.torch_format.file import MOST_PICKLE_BYTES, read_torch_file, write_torch_file
from deberta_jax.torch_format.tensor import STORAGES as STORAGE_TYPES
from deberta_jax.torch_format.tensor import Tensor

WORDS = np.arange(24, dtype=np.float32).reshape(4, 6)
HALVES = np.asarray([1.5, -2], ml_dtypes.bfloat16)
STORAGES = {"0": WORDS, "1": HALVES}
EXPECTED = {
    "words": WORDS,
    "tied": WORDS,
    "turned": WORDS.T,
    "part": WORDS[1:3, 2:4],
    "one": WORDS[0, 3],
    "none": WORDS[:0],
    "old": HALVES,
    "halves": HALVES,
}


def literal(value):
    """The operations that put a plain value on the stack."""
    return pickle.dumps(value, 2)[2:-1]


def tensor(key, kind, count, shape, strides, offset=0, view=(), function="_rebuild_tensor_v2"):
    """The operations that rebuild one tensor, as torch writes them."""
    storage = b"(" + literal("storage") + f"ctorch\n{kind}\n".encode()
    storage += b"".join(map(literal, (key, "cpu", count, *view))) + b"tQ"
    numbers = b"".join(map(literal, (offset, tuple(shape), tuple(strides))))
    more = b"" if function == "_rebuild_tensor" else b"\x89)"
    return f"ctorch._utils\n{function}\n(".encode() + storage + numbers + more + b"tR"


def state(**entries):
    return b"\x80\x02}(" + b"".join(literal(name) + operations for name, operations in entries.items()) + b"u."


def model(view=()):
    """A small state dict: tied, turned, a part, of no axes, of no values."""

    def words(shape, strides, offset=0):
        return tensor("0", "FloatStorage", 24, shape, strides, offset, view)

    return state(
        words=words((4, 6), (6, 1)),
        tied=words((4, 6), (6, 1)),
        turned=words((6, 4), (1, 6)),
        part=words((2, 2), (6, 1), 8),
        one=words((), (), 3),
        none=words((0, 6), (6, 1)),
        old=tensor("1", "BFloat16Storage", 2, (2,), (1,), 0, view, "_rebuild_tensor"),
        halves=tensor("1", "BFloat16Storage", 2, (2,), (1,), 0, view),
    )


def write_zip(path, pickled, storages=(), compression=zipfile.ZIP_STORED, **entries):
    contents = {"data.pkl": pickled, **entries, **{f"data/{key}": data for key, data in dict(storages).items()}}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(f"model/{name}"), bytes(data), compression)


def write_legacy(path, pickled, storages=(), keys=None, little=True):
    machine = {"protocol_version": 1001, "little_endian": little, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    storages = dict(storages)
    parts = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, machine)]
    parts += [pickled, pickle.dumps(list(storages) if keys is None else keys, 2)]
    parts += [data.size.to_bytes(8, "little") + data.tobytes() for data in storages.values()]
    path.write_bytes(b"".join(parts))


def write_plain(path, pickled):
    path.write_bytes(pickled)


def same(array, expected):
    return (
        array.dtype == expected.dtype
        and array.shape == expected.shape
        and array.flags.c_contiguous
        and np.array_equal(array, expected)
    )


def refused(path):
    """The one line that says what is wrong with a file."""
    with pytest.raises(InputError) as error:
        read_torch_file(path)
    line = str(error.value)
    assert line.startswith(str(path)) and line.isprintable() and len(line) < len(str(path)) + 400
    return line


@pytest.fixture(params=["zip", "legacy"])
def file(request, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    if request.param == "zip":
        write_zip(path, model(), STORAGES_BYTES, byteorder=b"little")
    else:
        write_legacy(path, model(view=(None,)), STORAGES)
    return path


STORAGES_BYTES = {key: data.tobytes() for key, data in STORAGES.items()}


def test_tensors_have_the_shapes_types_and_values_that_were_written(file):
    tensors = read_torch_file(file)
    assert list(tensors) == list(EXPECTED)
    for name, expected in EXPECTED.items():
        assert tensors[name].name == name
        assert (tensors[name].shape, tensors[name].dtype) == (expected.shape, expected.dtype)
        assert same(tensors[name].read(), expected)


def test_tied_tensors_have_one_storage(file):
    tensors = read_torch_file(file)
    assert tensors["words"].storage is tensors["tied"].storage
    assert tensors["words"].storage is not tensors["halves"].storage


def test_values_are_read_when_asked_for_and_a_file_that_changed_since_is_noticed(file):
    tensors = read_torch_file(file)
    os.truncate(file, 40)
    with pytest.raises(InputError, match="words is cut short"):
        tensors["words"].read()
    file.unlink()
    with pytest.raises(InputError, match="words could not be read"):
        tensors["words"].read()


def test_a_view_of_a_storage_in_an_old_file_is_read(tmp_path):
    view = (("a part", 12, 12),)
    write_legacy(
        tmp_path / "f.bin",
        state(part=tensor("0", "FloatStorage", 24, (2, 6), (6, 1), view=view)),
        {"0": WORDS},
    )
    assert same(read_torch_file(tmp_path / "f.bin")["part"].read(), WORDS[2:])


def test_a_parameter_is_its_tensor(tmp_path):
    words = tensor("0", "FloatStorage", 24, (24,), (1,))
    parameter = b"ctorch._utils\n_rebuild_parameter\n(" + words + b"\x88)tR"
    with_state = b"ctorch._utils\n_rebuild_parameter_with_state\n(" + words + b"\x88)}tR"
    write_zip(tmp_path / "f.bin", state(a=parameter, b=with_state), {"0": WORDS.tobytes()})
    for found in read_torch_file(tmp_path / "f.bin").values():
        assert same(found.read(), WORDS.reshape(-1))


@pytest.mark.parametrize("write", [write_zip, write_legacy, write_plain])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_read_as_they_are(write, protocol, tmp_path):
    repeated = ["Ġthe", 1]
    table = {
        "encoder": {"Ġthe": 5, "é": -7, ("a", "b"): 2**70},
        "vocab": [("Ġthe", 0.5), (None, True, False), (), [], {}, (1, 2, 3, 4)],
        "bytes": [b"\x00\xff", b""],
        "sets": [{1, "a"}, set()],
        "again": [repeated, repeated],
        "many": list(range(70000)),
    }
    write(tmp_path / "bpe_encoder.bin", pickle.dumps(table, protocol))
    assert read_torch_file(tmp_path / "bpe_encoder.bin") == table


def test_an_ordered_dict_with_metadata_is_a_dict(tmp_path):
    values = OrderedDict(a=1, b=OrderedDict())
    values._metadata = OrderedDict(version=1)
    write_plain(tmp_path / "f.bin", pickle.dumps(values, 2))
    found = read_torch_file(tmp_path / "f.bin")
    assert type(found) is dict and found == {"a": 1, "b": {}}


@pytest.mark.parametrize(
    "name", ["DeBERTa.deberta.config\nModelConfig", "deberta.config\nAbsModelConfig", "argparse\nNamespace"]
)
def test_a_config_becomes_its_attributes_without_its_code(name, tmp_path):
    config = f"c{name}\n".encode() + b")\x81" + literal({"hidden_size": 768, "__class__": "odd"}) + b"b"
    write_zip(tmp_path / "f.bin", state(config=config, w=tensor("0", "LongStorage", 1, (), ())), {"0": bytes(8)})
    found = read_torch_file(tmp_path / "f.bin")
    assert type(found["config"]) is SimpleNamespace and vars(found["config"])["hidden_size"] == 768
    assert found["w"].read() == 0


def test_what_is_nested_in_a_config_is_found_even_if_it_holds_itself(tmp_path):
    namespace = argparse.Namespace(name="base", inner=argparse.Namespace(layers=[1, 2]))
    namespace.itself = namespace
    write_plain(tmp_path / "f.bin", pickle.dumps(namespace, 2))
    found = read_torch_file(tmp_path / "f.bin")
    assert found.itself is found and found.inner.layers == [1, 2]


@pytest.mark.parametrize("number", [np.float64(0.5), np.int32(-3), np.bool_(True)])
def test_numbers_of_numpy_are_numbers(number, tmp_path):
    write_plain(tmp_path / "f.bin", pickle.dumps({"n": number}, 2))
    assert read_torch_file(tmp_path / "f.bin") == {"n": number.item()}


class Called:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("write", [write_zip, write_legacy, write_plain])
@pytest.mark.parametrize("function", [os.system, eval, exec, subprocess.Popen, getattr, __import__, np.load])
def test_nothing_that_a_file_names_is_run(function, write, protocol, tmp_path):
    sentinel = tmp_path / "sentinel"
    command = f"open({str(sentinel)!r}, 'w')" if function in (eval, exec) else f"touch {sentinel}"
    write(tmp_path / "f.bin", pickle.dumps({"weight": Called(function, command)}, protocol))
    line = refused(tmp_path / "f.bin")
    assert f".{function.__name__}, which a file of tensors has no use for" in line
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("operations", "what"),
    {
        # Names that lead from something harmless to something that is not.
        b"\x8c\x0bcollections\x8c\x20OrderedDict.__init__.__globals__\x93": "to collections.OrderedDict.__init__",
        b"ctorch\nload\n": "refers to torch.load",
        b"ctorch.storage\nFloatStorage.from_buffer\n": "refers to torch.storage.FloatStorage.from_buffer",
        b"cdeberta.config\nos\n": "refers to deberta.config.os",
        b"ccopyreg\n_reconstructor\n": "refers to copyreg._reconstructor",
        b"ctorch._utils\n_rebuild_sparse_tensor\n": "refers to torch._utils._rebuild_sparse_tensor",
        b"ctorch\nFooStorage\n": "refers to torch.FooStorage",
        b"cos\x1b[31m\nsystem\n": r"refers to 'os\\x1b\[31m'.system",
        b"NN\x93": "a name that is no text",
        # Attributes of what stands for functions, and calls of what is none.
        b"ccollections\nOrderedDict\n}X\x04\0\0\0callNsb": "adds to a Function as to a dict",
        b"]}b": "adds to a list",
        b"NN\x87": "IndexError",
        b"]NR": "calls a list",
        b"ctorch\nFloatStorage\n)R": "calls a",
        b"ccollections\nOrderedDict\n(NtR": "TypeError",
        b"cargparse\nNamespace\n}\x85R": "TypeError",
        b"cargparse\nNamespace\n)RNb": "TypeError",
        b"cnumpy\ndtype\n" + literal(("O8", False, True)) + b"R": "refers to the numpy type O8",
        b"cnumpy.core.multiarray\nscalar\n" + literal(("O", 8 * "a")) + b"R": "a number of no type|TypeCheckError",
        b"cnumpy\ndtype\n" + literal(("f8", False, True)) + b"R" + literal((3, ">", None)) + b"b": "big-endian",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nSize\nN)}tR": "a tensor of an unknown class",
        # A forged storage.
        b"ctorch._utils\n_rebuild_tensor\n(cargparse\nNamespace\n)RK\0\x86K\0))tR": "AttributeError|TypeError",
        # Operations of old or of other pickles.
        b"(ios\nsystem\n": "the pickle operation INST",
        b"\x82\x01": "the pickle operation EXT1",
        b"Pstorage\n": "the pickle operation PERSID",
        b"N2": "the pickle operation DUP",
        b"NQ": "names the storage of a tensor where there can be none",
        # Damage.
        b"r\xff\xff\xff\xff": "IndexError",
        b"Nr\xff\xff\xff\xff\xff": "ValueError",
        b"X\xff\xff\xff\xffabc": "ValueError",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x7fabc": "ValueError",
        b"h\x07": "KeyError",
        b"}]Ns": "a list as a key",
        b"\x8b\x00\x08\0\0" + b"\x7f" * 2048: "a number of 16383 bits",
        b"t": "IndexError",
        b"NN": "stops half way",
        b"(N": "stops half way",
        b"": "stops half way",
    }.items(),
)
def test_a_pickle_that_is_more_than_data_is_refused(operations, what, tmp_path):
    write_plain(tmp_path / "f.bin", b"\x80\x04" + operations + b".")
    with pytest.raises(InputError, match=what):
        read_torch_file(tmp_path / "f.bin")
    refused(tmp_path / "f.bin")


@pytest.mark.parametrize(
    "operations",
    [
        # A tuple of pairs of itself, 100 deep, as a key.
        b"}" + b")" + b"q\0h\0\x86" * 100 + b"Ns",
        # One long list made a tuple again and again.
        b"](" + b"N" * 10_000 + b"eq\0" + b"ctorch\nSize\n" + b"q\1" + b"h\1h\0\x85R0" * 1000,
        b"](" + b"N" * 10_000 + b"eq\0" + b"ctorch\nSize\nq\1(" + b"h\1h\0\x85R" * 1000 + b"t\x86",
    ],
)
def test_a_small_pickle_cannot_take_much_time_or_memory(operations, tmp_path):
    write_plain(tmp_path / "f.bin", b"\x80\x04" + operations + b".")
    start = time.perf_counter()
    tracemalloc.start()
    try:
        refused(tmp_path / "f.bin")
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    ("contents", "what"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a git-lfs pointer"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        (b"storages".ljust(257, b"\0") + b"ustar\x0000" + bytes(400), "the tar format of PyTorch 0.1"),
        (b"Not Found", "is not a PyTorch file"),
        (bytes(1000), "is not a PyTorch file"),
        (pickle.dumps({"a": 1}, 2) + b"more", "4 bytes follow its pickle"),
        (pickle.dumps({"a": 1}, 0), "is not a PyTorch file"),
    ],
)
def test_other_files_are_refused_by_what_they_are(contents, what, tmp_path):
    (tmp_path / "f.bin").write_bytes(contents)
    with pytest.raises(InputError, match=what):
        read_torch_file(tmp_path / "f.bin")
    refused(tmp_path / "f.bin")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "No such file" in refused(tmp_path / "none.bin")
    assert "Is a directory" in refused(tmp_path)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((4, 6), (6, 1), 1),
        ((5, 6), (6, 1), 0),
        ((2, 2), (24, 1), 0),
        ((1,), (1,), 24),
        ((1,), (1,), -1),
        ((-1,), (1,), 0),
        ((2,), (-1,), 5),
        ((10**12,), (0,), 0),
        ((25,), (0,), 0),
        ((0, 2**60), (1, 1), 0),
        ((2**62, 2**62), (0, 0), 0),
        ((1,) * 40, (1,) * 40, 0),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused_by_name(write, shape, strides, offset, tmp_path):
    view = () if write is write_zip else (None,)
    pickled = state(good=tensor("0", "FloatStorage", 24, (24,), (1,), 0, view))
    pickled = pickled[:-2] + literal("bad.one") + tensor("0", "FloatStorage", 24, shape, strides, offset, view) + b"u."
    write(tmp_path / "f.bin", pickled, {"0": WORDS if write is write_legacy else WORDS.tobytes()})
    assert "bad.one" in refused(tmp_path / "f.bin")


@pytest.mark.parametrize(
    ("operations", "what"),
    [
        (tensor("0", "FloatStorage", 23, (1,), (1,)), "storage 0 should hold 23 values"),
        (tensor("0", "DoubleStorage", 24, (1,), (1,)), "storage 0 should hold 24 values"),
        (tensor("0", "FloatStorage", -24, (1,), (1,)), "storage 0 has an impossible size"),
        (tensor("7", "FloatStorage", 24, (1,), (1,)), "storage 7 is missing"),
        (tensor("../../etc/passwd", "FloatStorage", 24, (1,), (1,)), "storage ../../etc/passwd is missing"),
        (tensor("0", "FloatStorage", 24, (2, 2), (1,)), "a tensor of other than"),
        (tensor("0", "FloatStorage", 24, ("a",), (1,)), "damaged"),
        (tensor("0", "FloatStorage", 24, (1,), (1,), view=(None,)), "something other than values and tensors"),
        (literal("module") + b"Q", "something other than values and tensors"),
    ],
)
def test_a_damaged_storage_is_refused(operations, what, tmp_path):
    write_zip(tmp_path / "f.bin", state(w=operations), {"0": WORDS.tobytes()})
    assert what in refused(tmp_path / "f.bin")


def test_zip_files_other_than_of_tensors_are_refused(tmp_path):
    path, good, storages = tmp_path / "f.bin", model(), STORAGES_BYTES
    write_zip(path, good, storages, compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in refused(path)
    write_zip(path, good, storages, byteorder=b"big")
    assert "big-endian" in refused(path)
    write_zip(path, good, storages, **{"constants.pkl": b""})
    assert "TorchScript" in refused(path)
    np.savez(tmp_path / "f.npz", words=WORDS)
    assert "PyTorch did not write" in refused(tmp_path / "f.npz")
    write_zip(path, good, storages)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/data/0", bytes(96))
    assert "no name twice" in refused(path)
    write_zip(path, good, storages)
    contents = bytearray(path.read_bytes())
    contents[contents.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(contents)
    assert "encrypted" in refused(path)
    write_zip(path, bytes(MOST_PICKLE_BYTES + 1))
    assert "67,108,865 bytes, over" in refused(path)


def test_old_files_of_other_machines_or_with_other_storages_are_refused(tmp_path):
    path, pickled = tmp_path / "f.bin", model(view=(None,))
    write_legacy(path, pickled, STORAGES, little=False)
    assert "big-endian" in refused(path)
    for keys in (["0"], ["0", "1", "1"], ["0", "2"], {"0": 1}, [["0"], "1"]):
        write_legacy(path, pickled, STORAGES, keys=keys)
        assert "lists other storages" in refused(path)
    write_legacy(path, pickled, {"0": WORDS[:2], "1": HALVES})
    assert "storage 0 should hold 12 values" in refused(path)


def test_a_file_cut_short_anywhere_is_refused(file):
    whole = file.read_bytes()
    for length in {*range(0, len(whole), 7), *range(len(whole) - 40, len(whole))}:
        file.write_bytes(whole[:length])
        refused(file)


def test_an_old_file_cut_short_says_which_tensor_is(tmp_path):
    write_legacy(tmp_path / "f.bin", model(view=(None,)), STORAGES)
    os.truncate(tmp_path / "f.bin", (tmp_path / "f.bin").stat().st_size - 1)
    assert "old ends beyond the" in refused(tmp_path / "f.bin")


def read_all(path):
    """The arrays of a file, or None if it is refused in one line."""
    try:
        found = read_torch_file(path)
        entries = found.items() if isinstance(found, dict) else ()
        return {name: entry.read() for name, entry in entries if isinstance(entry, Tensor)}
    except InputError as error:
        message = str(error)
    assert message.startswith(str(path)) and "\n" not in message
    return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


@settings(max_examples=400, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_of_a_zip_file_is_refused_or_changes_nothing(folder, place, flip):
    pickled = state(
        words=tensor("0", "FloatStorage", 24, (4, 6), (6, 1)), halves=tensor("1", "BFloat16Storage", 2, (2,), (1,))
    )
    write_zip(folder / "f.bin", pickled, STORAGES_BYTES, byteorder=b"little")
    contents = bytearray((folder / "f.bin").read_bytes())
    contents[int(place * len(contents))] ^= flip
    (folder / "f.bin").write_bytes(contents)
    found = read_all(folder / "f.bin")
    assert found is None or all(same(found[name], EXPECTED[name]) for name in ("words", "halves"))


@settings(max_examples=400, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_of_an_old_file_gives_an_error_or_other_values(folder, place, flip):
    write_legacy(folder / "f.bin", model(view=(None,)), STORAGES)
    contents = bytearray((folder / "f.bin").read_bytes())
    contents[int(place * len(contents))] ^= flip
    (folder / "f.bin").write_bytes(contents)
    read_all(folder / "f.bin")


@settings(max_examples=200, deadline=None)
@given(start=st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04"]), rest=st.binary(max_size=200))
def test_of_random_bytes_nothing_but_an_input_error_comes(folder, start, rest):
    (folder / "f.bin").write_bytes(start + rest)
    read_all(folder / "f.bin")


ARRAYS = {
    **{
        f"{np.dtype(dtype)}": np.arange(6).reshape(2, 3).astype(dtype)
        for dtype in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?", "c8", "c16", ml_dtypes.bfloat16)
    },
    "turned": WORDS.T,
    "part": WORDS[1:3, 2:4],
    "one": WORDS[0, 3].reshape(()),
    "none": np.zeros((3, 0, 2), np.float32),
    "big-endian": WORDS.astype(">f4"),
    "ein Näme": HALVES,
}


def test_what_is_written_is_read_again(tmp_path):
    write_torch_file(tmp_path / "f.bin", ARRAYS.items())
    found = read_torch_file(tmp_path / "f.bin")
    assert list(found) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        assert same(found[name].read(), expected.astype(expected.dtype.newbyteorder("<")))
    assert os.listdir(tmp_path) == ["f.bin"]


def test_the_same_tensors_are_the_same_file(tmp_path):
    write_torch_file(tmp_path / "a.bin", ARRAYS.items())
    write_torch_file(tmp_path / "b.bin", ARRAYS.items())
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_a_file_that_could_not_be_written_is_as_it_was(tmp_path):
    def failing():
        yield "words", WORDS
        raise InputError("the source is damaged")

    write_torch_file(tmp_path / "f.bin", {"old": HALVES}.items())
    for tensors, what in [
        (failing(), "the source is damaged"),
        ([("a", WORDS), ("a", WORDS)], "a comes twice"),
        ([("a", np.zeros(2, np.uint16))], "a is of type uint16, of which PyTorch has no storage"),
    ]:
        with pytest.raises(InputError, match=what):
            write_torch_file(tmp_path / "f.bin", tensors)
    assert list(read_torch_file(tmp_path / "f.bin")) == ["old"] and os.listdir(tmp_path) == ["f.bin"]
    with pytest.raises(InputError, match="could not be written"):
        write_torch_file(tmp_path / "none" / "f.bin", [])


def test_memory_for_one_tensor_is_enough_to_write_and_to_read(tmp_path):
    tensors = ((f"layer.{number}", np.full((512, 512), number, np.float32)) for number in range(16))
    tracemalloc.start()
    try:
        write_torch_file(tmp_path / "f.bin", tensors)
        for number, found in enumerate(read_torch_file(tmp_path / "f.bin").values()):
            assert (found.read() == number).all()
        assert tracemalloc.get_traced_memory()[1] < 3 * 2**20
    finally:
        tracemalloc.stop()


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.reference
@pytest.mark.parametrize("new", [True, False])
def test_what_torch_saves_is_read_as_torch_reads_it(new, torch, tmp_path):
    words = torch.randn(7, 5)
    values = {
        "words": words,
        "tied": words,
        "turned": words.T,
        "part": words[2:4, 1:3],
        "steps": words[:, ::2],
        "one": torch.tensor(3.5),
        "none": torch.empty(0, 3),
        "nothing": torch.empty(0),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "layer": torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)).state_dict(),
        "list": [torch.ones(2, dtype=torch.int16), (torch.zeros(1),)],
        "dtype": torch.bfloat16,
        "size": words.shape,
        "config": argparse.Namespace(hidden=3),
    }
    for dtype in (*map(str, STORAGE_TYPES.values()), *["uint16", "float8_e5m2"] * new):
        values[dtype] = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    values["part of halves"] = values["bfloat16"][1:]
    values["part of bytes"] = values["uint16"][1:] if new else torch.ones(2)
    torch.save(values, tmp_path / "f.bin", _use_new_zipfile_serialization=new)
    found = read_torch_file(tmp_path / "f.bin")

    def equal(ours, theirs):
        if isinstance(theirs, torch.Tensor):
            array = ours.read()
            theirs = theirs.detach().contiguous()
            assert array.dtype == np.dtype(str(theirs.dtype).removeprefix("torch.")) and array.shape == theirs.shape
            assert array.tobytes() == theirs.reshape(-1).view(torch.uint8).numpy().tobytes()
        elif isinstance(theirs, dict):
            assert list(ours) == list(theirs) and all(equal(ours[key], theirs[key]) for key in theirs)
        elif isinstance(theirs, (list, tuple)) and not isinstance(theirs, torch.Size):
            assert all(equal(*pair) for pair in zip(ours, theirs, strict=True))
        return True

    equal(found, values)
    assert found["tied"].storage is found["turned"].storage
    assert found["size"] == (7, 5) and found["config"].hidden == 3 and found["dtype"] == ml_dtypes.bfloat16


@pytest.mark.reference
def test_a_file_saved_without_checksums_is_read(torch, tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"words": torch.from_numpy(WORDS)}, tmp_path / "f.bin")
    finally:
        torch.serialization.set_crc32_options(before)
    assert same(read_torch_file(tmp_path / "f.bin")["words"].read(), WORDS)


@pytest.mark.reference
@pytest.mark.parametrize("mmap", [True, False])
def test_what_is_written_torch_reads(mmap, torch, tmp_path):
    write_torch_file(tmp_path / "f.bin", ARRAYS.items())
    found = torch.load(tmp_path / "f.bin", weights_only=True, mmap=mmap)
    assert list(found) == list(ARRAYS) and isinstance(found, OrderedDict)
    for name, expected in ARRAYS.items():
        if name == "big-endian":
            expected = expected.astype("<f4")
        assert str(found[name].dtype) == f"torch.{expected.dtype}" and found[name].shape == expected.shape
        assert found[name].reshape(-1).view(torch.uint8).numpy().tobytes() == expected.tobytes()
