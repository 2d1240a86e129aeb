"""State dicts as training scripts save them: inside other values, beside others, and with prefixes."""

import datetime
import json
import logging

import numpy as np
import pytest
from toy_folders import V1, V3, same_parameters, toy_model, toy_tensors
from toy_torch_files import literal, state_dict, tensor, write_zip

from deberta_jax.errors import InputError
from deberta_jax.hub.config_file import config_text
from deberta_jax.hub.folder import read_folder
from deberta_jax.hub.layout import export_tensors
from deberta_jax.hub.pretrained import load_pretrained
from deberta_jax.torch_format.file import read_torch_file, write_torch_file

HEAD = "sequence_classification"
WRAPPERS = [
    *("module.", "model.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod.", "model.model."),
    *("_fsdp_wrapped_module.", "module.module.", "net.", "student.", "base_model.model.", "encoder.backbone."),
]


def write_folder(folder, config, head=HEAD):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config_text(config, head, dtype="float32"))
    return folder


def operations(tensors, start=0):
    """The operations that rebuild a state dict, without the first and the last, and the storages it uses."""
    entries, storages = {}, {}
    for number, (name, x) in enumerate(tensors.items(), start):
        strides = [stride // x.itemsize for stride in np.ascontiguousarray(x).strides]
        entries[name] = tensor(str(number), "FloatStorage", x.size, x.shape, strides)
        storages[str(number)] = np.ascontiguousarray(x)
    return state_dict(**entries)[2:-1], storages


def write_checkpoint(path, tensors, **others):
    nested, storages = operations(tensors)
    write_zip(path, state_dict(**{"model": nested} | others), {key: x.tobytes() for key, x in storages.items()})


def load(folder, head=HEAD):
    return load_pretrained(folder, head, require_tokenizer=False)[0]


@pytest.mark.parametrize("config", [V3, V1], ids=["v3", "v1"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_prefix_of_a_wrapper_is_removed(wrapper, config, tmp_path, caplog):
    folder = write_folder(tmp_path, config)
    tensors = toy_tensors(config, HEAD)
    write_torch_file(folder / "pytorch_model.bin", [(wrapper + name, x) for name, x in tensors.items()])
    assert same_parameters(load(folder), toy_model(config, HEAD))
    unusual = wrapper in ("student.", "base_model.model.", "encoder.backbone.")
    assert (f"the prefix {wrapper!r} was removed" in caplog.text) == unusual


def test_the_prefix_of_a_bare_encoder_is_removed(tmp_path):
    folder = write_folder(tmp_path, V3, None)
    tensors = export_tensors(toy_model(V3, None), V3)
    assert "embeddings.word_embeddings.weight" in tensors
    for wrapper in ("encoder.", "model.", "model.deberta.", "bert.", "module.bert.", "encoder.encoder."):
        write_torch_file(folder / "pytorch_model.bin", [(wrapper + name, x) for name, x in tensors.items()])
        assert same_parameters(load(folder, None), toy_model(V3, None)), wrapper


@pytest.mark.parametrize("part", ["_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module."])
def test_names_inserted_by_wrappers_of_parts_are_removed(part, tmp_path):
    folder = write_folder(tmp_path, V3)
    tensors = toy_tensors(V3, HEAD)
    new_names = {n: n.replace("layer.1.", f"layer.1.{part}").replace("deberta.", f"deberta.{part}") for n in tensors}
    assert any(name.count(part) == 2 for name in new_names.values())
    write_torch_file(folder / "pytorch_model.bin", [(new_names[name], x) for name, x in tensors.items()])
    assert same_parameters(load(folder), toy_model(V3, HEAD))


def test_a_wrapper_of_the_encoder_alone_keeps_the_head(tmp_path):
    folder = write_folder(tmp_path, V3)
    named = [(n.replace("deberta.", "deberta.module."), x) for n, x in toy_tensors(V3, HEAD).items()]
    write_torch_file(folder / "pytorch_model.bin", named)
    assert same_parameters(load(folder), toy_model(V3, HEAD))


def test_tensors_outside_of_the_model_are_reported_and_not_read(tmp_path, caplog):
    folder = write_folder(tmp_path, V3, None)
    named = {f"model.{n}": x for n, x in toy_tensors(V3, None).items()}
    named |= {"fc.weight": np.ones((2, 32), np.float32), "n_averaged": np.zeros((), np.int64)}
    write_torch_file(folder / "pytorch_model.bin", named.items())
    assert same_parameters(load(folder, None), toy_model(V3, None))
    assert "not read, because they are outside of the model 'model.': fc.weight" in caplog.text
    assert "n_averaged" not in caplog.text


HEADS = {
    "sequence_classification": V3,
    "token_classification": V1,
    "question_answering": V3,
    "masked_lm": V3,
    "replaced_token_detection": V3,
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("encoder", "outer"),
    [
        ("model.", ""),
        ("encoder.", ""),
        ("transformer.", ""),
        ("model.deberta.", ""),
        ("module.encoder.", "module."),
        ("model._orig_mod.backbone.", "model._orig_mod."),
    ],
)
def test_a_head_beside_an_encoder_under_another_name_is_read(encoder, outer, head, tmp_path, caplog):
    folder = write_folder(tmp_path, HEADS[head], head)
    tensors = toy_tensors(HEADS[head], head)
    named = [
        (encoder + n.removeprefix("deberta.") if n.startswith("deberta.") else outer + n, tensors[n]) for n in tensors
    ]
    named.append((outer + "classifier.0.weight", np.ones((2, 32), np.float32)))
    write_torch_file(folder / "pytorch_model.bin", named)
    assert same_parameters(load(folder, head), toy_model(HEADS[head], head))
    assert f": {outer.replace('_orig_mod.', '')}classifier.0.weight" in caplog.text.replace("_orig_mod.", "")


def test_the_head_of_the_model_itself_is_read_and_not_one_beside_it(tmp_path, caplog):
    folder = write_folder(tmp_path, V3)
    named = {f"model.{n}": x for n, x in toy_tensors(V3, HEAD).items()}
    named["classifier.weight"] = np.ones((9, 32), np.float32)
    write_torch_file(folder / "pytorch_model.bin", named.items())
    assert same_parameters(load(folder), toy_model(V3, HEAD))
    assert "not read, because they are outside of the model 'model.': classifier.weight" in caplog.text


def test_several_encoders_are_an_error_that_names_their_prefixes(tmp_path):
    folder = write_folder(tmp_path, V3, None)
    named = {f"{part}.{n}": x for part in ("query", "document") for n, x in toy_tensors(V3, None).items()}
    write_torch_file(folder / "pytorch_model.bin", named.items())
    with pytest.raises(
        InputError, match=r"several encoders, with the prefixes 'document\.…', 'query\.…'; save the one"
    ):
        read_folder(folder)


def test_equal_names_with_and_without_a_part_are_an_error(tmp_path):
    folder = write_folder(tmp_path, V3)
    tensors = toy_tensors(V3, HEAD)
    repeated = {name.replace("pooler.", "pooler._orig_mod."): x for name, x in tensors.items()}
    write_torch_file(folder / "pytorch_model.bin", (tensors | repeated).items())
    with pytest.raises(InputError, match="contains the same tensors with and without the prefix"):
        read_folder(folder)


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "module", "my_model"])
def test_a_state_dict_inside_a_training_checkpoint_is_read(key, tmp_path):
    folder = write_folder(tmp_path, V3)
    tensors = {f"module.{name}": x for name, x in toy_tensors(V3, HEAD).items()}
    nested, storages = operations(tensors)
    moments, others = operations({"exp_avg": np.ones((2, 2), np.float32)}, start=len(storages))
    optimizer = state_dict(state=state_dict(a=moments)[2:-1], param_groups=literal([{"lr": 1e-5, "params": [0]}]))[2:-1]
    step = tensor("999", "FloatStorage", 1, (), ())
    storages |= others | {"999": np.ones(1, np.float32)}
    content = state_dict(**{"epoch": literal(3), "step": step, key: nested, "optimizer": optimizer})
    write_zip(folder / "pytorch_model.bin", content, {key: x.tobytes() for key, x in storages.items()})
    assert same_parameters(load(folder), toy_model(V3, HEAD))


def test_a_checkpoint_with_several_models_is_an_error_that_names_them(tmp_path):
    folder = write_folder(tmp_path, V3, None)
    nested, storages = operations(toy_tensors(V3, None))
    average, others = operations(toy_tensors(V3, None), start=len(storages))
    content = state_dict(model=nested, ema=average)
    write_zip(folder / "pytorch_model.bin", content, {key: x.tobytes() for key, x in (storages | others).items()})
    with pytest.raises(InputError, match=r'with the models model, ema; save one .*torch.load\(…\)\["model"\]'):
        read_folder(folder)
    write_zip(
        folder / "pytorch_model.bin",
        state_dict(model=nested, ema=nested),
        {key: x.tobytes() for key, x in storages.items()},
    )
    assert same_parameters(load(folder, None), toy_model(V3, None))


OBJECTS = {
    "array": literal(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "scalar": literal(np.float64(0.5)),
    "strings": literal(np.asarray(["a", "bc"])),
    "string": literal(np.str_("abc")),
    "dates": literal(np.asarray(["2020-01-01"], "datetime64[D]")),
    "settings": b"ctransformers.training_args\nTrainingArguments\n)\x81" + literal({"lr": 1}) + b"b",
    "path": b"cpathlib\nPosixPath\n" + literal(("/tmp",)) + b"R",
    "default": b"ccollections\ndefaultdict\nc__builtin__\ndict\n\x85R",
    "callback": b"cpytorch_lightning.callbacks\nModelCheckpoint\n)\x81" + literal({"best": 1.0}) + b"b",
    "nested": literal({"metrics": [np.float32(1), (2, {"f1": np.ones(3)})]}),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_values_beside_the_state_dict_are_left_out(kind, tmp_path):
    folder = write_folder(tmp_path, V3)
    write_checkpoint(folder / "pytorch_model.bin", toy_tensors(V3, HEAD), other=OBJECTS[kind])
    assert same_parameters(load(folder), toy_model(V3, HEAD))


def test_a_whole_model_is_an_error_that_says_what_to_save(tmp_path):
    folder = write_folder(tmp_path, V3)
    whole = b"ctransformers.models.deberta_v2.modeling_deberta_v2\nDebertaV2Model\n)\x81" + literal({"a": 1}) + b"b"
    write_zip(folder / "pytorch_model.bin", b"\x80\x02" + whole + b".")
    with pytest.raises(InputError, match=r"a whole object, .*DebertaV2Model; save `model.state_dict\(\)`"):
        read_folder(folder)
    write_zip(folder / "pytorch_model.bin", b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81.")
    with pytest.raises(InputError, match=r"save `model.state_dict\(\)` instead of the model"):
        read_folder(folder)


def test_code_beside_the_state_dict_is_refused_and_not_run(tmp_path):
    folder = write_folder(tmp_path, V3)
    harmful = b"cposix\nsystem\n" + literal((f"touch {tmp_path}/ran",)) + b"R"
    write_checkpoint(folder / "pytorch_model.bin", toy_tensors(V3, HEAD), other=harmful)
    with pytest.raises(InputError, match=r"refers to posix\.system"):
        read_folder(folder)
    assert not (tmp_path / "ran").exists()
    # An object of a known package is a placeholder: neither it nor its arguments are imported or called.
    write_checkpoint(
        folder / "pytorch_model.bin", toy_tensors(V3, HEAD), other=b"ctransformers\nx\n" + literal((1,)) + b"R"
    )
    assert str(read_torch_file(folder / "pytorch_model.bin")["other"]) == "Opaque(name='transformers.x')"


@pytest.mark.reference
def test_a_checkpoint_of_pytorch_is_read(tmp_path, transformers):
    import torch

    values = json.loads(config_text(V3, HEAD, dtype="float32"))
    del values["model_type"], values["clamp_distances"]
    model = transformers.DebertaV2ForSequenceClassification(transformers.DebertaV2Config(**values))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.ones((1, 4), dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    folder = write_folder(tmp_path, V3)
    for compiled in (False, True):
        state = model.state_dict()
        content = {
            "model": {f"_orig_mod.{name}": x for name, x in state.items()} if compiled else state,
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "config": model.config,
            "folder": tmp_path,
            "time": datetime.datetime(2026, 1, 1),
            "predictions": np.ones((3, 2)),
            "names": np.asarray(["a", "b"]),
            "best": np.float32(0.5),
            "rng": torch.get_rng_state(),
            "numpy_rng": np.random.get_state(),  # noqa: NPY002
        }
        torch.save(content, folder / "pytorch_model.bin")
        weight = load(folder).classifier.kernel[...]
        np.testing.assert_array_equal(weight, state["classifier.weight"].numpy().T)


def test_usual_prefixes_are_removed_without_a_warning(tmp_path, caplog):
    folder = write_folder(tmp_path, V3)
    write_torch_file(
        folder / "pytorch_model.bin", [(f"module.model.{name}", x) for name, x in toy_tensors(V3, HEAD).items()]
    )
    with caplog.at_level(logging.WARNING):
        load(folder)
    assert not caplog.records


def test_lora_weights_that_are_not_merged_are_an_error(tmp_path):
    folder = write_folder(tmp_path, V3)
    named = {n.replace("query_proj.", "query_proj.base_layer."): x for n, x in toy_tensors(V3, HEAD).items()}
    write_torch_file(folder / "pytorch_model.bin", [(f"base_model.model.{name}", x) for name, x in named.items()])
    with pytest.raises(InputError, match=r"contains LoRA weights .*; merge them with `model.merge_and_unload\(\)`"):
        read_folder(folder)


def test_a_dict_that_contains_itself_is_searched_once(tmp_path):
    folder = write_folder(tmp_path, V3)
    keys = b"".join(literal(f"k{number}") + b"h\xfe" for number in range(2000))
    nested, storages = operations(toy_tensors(V3, HEAD))
    content = b"\x80\x02}q\xfe(" + keys + literal("model") + nested + b"u."
    write_zip(folder / "pytorch_model.bin", content, {key: x.tobytes() for key, x in storages.items()})
    assert same_parameters(load(folder), toy_model(V3, HEAD))
