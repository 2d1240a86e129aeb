"""`deberta-jax predict`: tasks, options, and messages."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from adapter_folders import matrices, write_adapter
from inference_models import LABELS, NLI_LABELS
from json_lines import printed_lines, read_lines, write_lines
from sentence_folders import write_sentence_folder

import deberta_jax as dj
from deberta_jax.cli import predict
from deberta_jax.cli.main import main
from deberta_jax.inference.pipelines import PIPELINES

CONTEXT = "The fox eats what it finds there."
# For each task, the options of one example.
EXAMPLES = {
    "fill-mask": ["--text", "The [MASK] and [MASK]."],
    "classification": ["--text", "A fox.", "--pair", "A dog."],
    "token-classification": ["--text", "The quick fox"],
    "question-answering": ["--question", "What?", "--context", CONTEXT, "--max-answer-tokens", "3"],
    "multiple-choice": ["--text", "The fox", "--choices", "eats", "finds", "is"],
    "zero-shot": ["--text", "A fox.", "--labels", "fox", "dog", "--template", "{}", "--task", "zero-shot"],
    "replaced-tokens": ["--text", "The lazy fox", "--task", "replaced-tokens"],
    "embeddings": ["--text", "The lazy fox", "--task", "embeddings"],
}


def predict_one(capfd, *words):
    """The result of a command with one example."""
    capfd.readouterr()
    assert main(["predict", *words]) == 0
    [row] = printed_lines(capfd)
    return row


def load(folder, head):
    """A model and its tokenizer with the data types of the command, so that both share compiled programs."""
    return dj.from_pretrained(folder, head, dtype="float32", param_dtype="float32")


def tensors_of(folder):
    return safetensors.numpy.load_file(Path(folder) / "model.safetensors")


def copy_with(tensors, source, target):
    """Copy a model folder and replace its tensors; returns the copy."""
    shutil.copytree(source, target)
    safetensors.numpy.save_file(tensors, target / "model.safetensors")
    return str(target)


@pytest.fixture
def one_example(model_folders, capfd):
    """A function of a task: the output line for its example."""
    return lambda task: predict_one(capfd, model_folders[PIPELINES[task].head], *EXAMPLES[task])


def test_fill_mask_gives_five_tokens_per_mask(one_example):
    masks = one_example("fill-mask")["prediction"]
    assert [len(tokens) for tokens in masks] == [5, 5]
    assert masks[0][0]["probability"] >= masks[0][1]["probability"] > 0


def test_classification_and_zero_shot_give_a_score_per_label(one_example):
    row = one_example("classification")
    assert (row["text"], row["pair"]) == ("A fox.", "A dog.")
    assert tuple(row["prediction"]["scores"]) == NLI_LABELS
    assert set(one_example("zero-shot")["prediction"]["scores"]) == {"fox", "dog"}


@pytest.mark.parametrize("task", ["token-classification", "replaced-tokens"])
def test_spans_are_those_of_the_text(task, one_example):
    row = one_example(task)
    assert row["prediction"]
    assert all(row["text"][span["start"] : span["end"]] == span["text"] for span in row["prediction"])


def test_question_answering_gives_a_span_of_the_context(one_example):
    prediction = one_example("question-answering")["prediction"]
    assert prediction["text"] == CONTEXT[prediction["start"] : prediction["end"]]


def test_multiple_choice_gives_one_of_the_choices(one_example):
    row = one_example("multiple-choice")
    assert row["choices"][row["prediction"]["choice_index"]] == row["prediction"]["choice"]


def test_embeddings_have_all_digits_of_float32(one_example, model_folders):
    model, tokenizer = load(model_folders[None], None)
    expected = dj.embed(model, tokenizer, ["The lazy fox"])[0]
    assert (np.float32(one_example("embeddings")["prediction"]) == expected).all()


def test_entities_are_ranked_for_the_examples_of_a_file(model_folders, tmp_path, capfd):
    example = {"passage": "A fox, a dog", "query": "@placeholder", "entities": [[2, 5], [9, 12]]}
    invalid = [{**example, "entities": entities} for entities in ([[2]], [["2", 5]], [[2, 99]], "fox")]
    command = ["predict", model_folders["entity_scoring"], "--task", "entity-ranking"]
    assert main([*command, "--input", write_lines(tmp_path / "in.jsonl", example, *invalid)]) == 2
    row, *errors = printed_lines(capfd)
    assert {candidate["text"] for candidate in row["prediction"]} == {"fox", "dog"}
    assert all('"entities" must be a list of [start, end]' in errors[index]["error"] for index in (0, 1, 3))
    assert errors[2]["error"] == "entity 2:99 is not a span of the passage of 12 characters"
    assert main([*command, "--text", "A fox"]) == 2
    assert "--text: not used by entity-ranking" in capfd.readouterr().err
    assert main(command) == 2
    assert "entity-ranking takes its examples from a file: --input" in capfd.readouterr().err


def test_lines_of_a_file_keep_their_order_and_fields(masked_lm, tmp_path, capfd):
    texts = [" ".join(["fox"] * (number * 3 % 4)) + " [MASK]" for number in range(20)]
    rows = [{"id": number, "text": text, "label": "é"} for number, text in enumerate(texts)]
    output = tmp_path / "out.jsonl"
    assert (
        main(["predict", masked_lm, "--input", write_lines(tmp_path / "in.jsonl", *rows), "--output", str(output)]) == 0
    )
    assert capfd.readouterr().err.splitlines()[-1] == f"results of 20 lines are in {output}"
    results = read_lines(output)
    assert [{key: row[key] for key in ("id", "text", "label")} for row in results] == rows
    model, tokenizer = load(masked_lm, "masked_lm")
    expected = dj.fill_mask(model, tokenizer, texts)
    assert [row["prediction"][0][0]["token"] for row in results] == [masks[0][0].token for masks in expected]
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl"]


def test_texts_with_and_without_a_pair_can_be_in_one_file(model_folders, tmp_path, capfd):
    rows = [
        {"text": "fox"},
        {"text": "fox", "pair": "dog"},
        {"text": "fox", "text_pair": "dog"},
        {"text": "fox", "pair": None},
    ]
    source = write_lines(tmp_path / "in.jsonl", *rows)
    assert main(["predict", model_folders["sequence_classification"], "--input", source]) == 0
    single, pair, same_pair, same_single = (row["prediction"] for row in printed_lines(capfd))
    assert pair == same_pair != single == same_single


def test_a_pair_that_the_task_does_not_use_is_an_error(model_folders, tmp_path, capfd):
    source = write_lines(tmp_path / "in.jsonl", {"text": "A fox.", "pair": "A dog."}, {"text": "A fox."})
    options = ["--task", "zero-shot", "--labels", "sport", "--multi-label", "--input", source]
    assert main(["predict", model_folders["sequence_classification"], *options]) == 2
    out, err = capfd.readouterr()
    assert 'in.jsonl, line 1: the field "pair" is not used by this task: remove it' in err
    assert [sorted(json.loads(line)) for line in out.splitlines()] == [["error", "line"], ["prediction", "text"]]


def test_without_a_threshold_there_is_always_an_answer(model_folders, capfd):
    options = [*EXAMPLES["question-answering"], "--no-answer-threshold", "None"]
    row = predict_one(capfd, model_folders["question_answering"], *options)
    assert row["prediction"]["text"]


def test_hidden_states_and_attentions_are_written_next_to_the_output(model_folders, tmp_path, capfd):
    rows = [{"text": "The fox", "pair": "the dog"}, {"text": "fox " * 100}, {"text": "no"}]
    source, output = write_lines(tmp_path / "in.jsonl", *rows), tmp_path / "out.jsonl"
    options = ["--return", "hidden_states", "attentions"]
    folder = model_folders["sequence_classification"]
    assert main(["predict", folder, "--input", source, "--output", str(output), *options]) == 2
    results = read_lines(output)
    assert [row.get("arrays") for row in results] == [
        "out.jsonl.arrays/00000001.npz",
        None,
        "out.jsonl.arrays/00000003.npz",
    ]
    assert results[1]["error"].startswith("--return: 302 tokens")
    model, tokenizer = load(folder, "sequence_classification")
    expected = dj.activations(model, tokenizer, "The fox", "the dog")
    with np.load(tmp_path / results[0]["arrays"]) as arrays:
        assert arrays["tokens"].tolist() == expected.tokens
        for name in ("offsets", "hidden_states", "attentions"):
            assert (arrays[name] == getattr(expected, name)).all()
    output = tmp_path / "states.jsonl"
    assert main(["predict", folder, "--text", "no", "--output", str(output), *options[:2]]) == 0
    assert capfd.readouterr().err.endswith(f"results of 1 line are in {output}, arrays in {output}.arrays\n")
    with np.load(tmp_path / "states.jsonl.arrays" / "00000001.npz") as arrays:
        assert set(arrays) == {"tokens", "offsets", "hidden_states"}


def test_the_use_of_the_enhanced_mask_decoder_is_reported(masked_lm, tmp_path, capfd):
    assert main(["predict", masked_lm, "--text", "a [MASK]"]) == 0
    out, err = capfd.readouterr()
    assert err == "masks are filled with the enhanced mask decoder\n"
    tensors = tensors_of(masked_lm)
    del tensors["deberta.embeddings.position_embeddings.weight"]
    folder = copy_with(tensors, masked_lm, tmp_path / "model")
    assert main(["predict", folder, "--text", "a [MASK]"]) == 0
    other, err = capfd.readouterr()
    assert "no position embeddings in the file; masks are filled from the last layer" in err
    assert json.loads(other)["prediction"] != json.loads(out)["prediction"]


@pytest.mark.parametrize("fill_order", ["left_to_right", "most_confident"])
def test_masks_are_filled_one_after_the_other(fill_order, masked_lm, capfd):
    options = [*EXAMPLES["fill-mask"], "--fill-order", fill_order, "--top-k", "2"]
    prediction = predict_one(capfd, masked_lm, *options)["prediction"]
    [expected] = dj.fill_mask(
        *dj.from_pretrained(masked_lm, "masked_lm"), ["The [MASK] and [MASK]."], top_k=2, fill_order=fill_order
    )
    assert (prediction["text"], prediction["pair"]) == (expected.text, None)
    assert [[token["id"] for token in mask] for mask in prediction["masks"]] == [
        [token.id for token in mask] for mask in expected.masks
    ]


def test_the_generator_of_a_model_fills_masks(model_folders, tmp_path, capfd):
    parts = {"generator": model_folders["masked_lm"], "discriminator": model_folders["replaced_token_detection"]}
    tensors = {
        f"{part}.{name}": tensor for part, source in parts.items() for name, tensor in tensors_of(source).items()
    }
    folder = copy_with(tensors, model_folders["masked_lm"], tmp_path / "model")
    expected = predict_one(capfd, model_folders["masked_lm"], "--text", "a [MASK]")
    assert predict_one(capfd, folder, "--generator", "--text", "a [MASK]") == expected
    assert main(["predict", folder, "--text", "a [MASK]", "--task", "classification"]) == 2
    assert "its tensors serve replaced-tokens, embeddings" in capfd.readouterr().err


def test_the_model_has_the_precision_of_the_option(masked_lm, capfd, monkeypatch):
    loaded = []
    load_model = predict.load_pretrained
    monkeypatch.setattr(predict, "load_pretrained", lambda *a, **k: loaded.append(load_model(*a, **k)) or loaded[-1])
    predict_one(capfd, masked_lm, *EXAMPLES["fill-mask"], "--precision", "tf32")
    assert loaded[0][0].precision == "tf32"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_results_of_16_bits_are_written_as_numbers(dtype, one_example, model_folders, capfd):
    row = predict_one(capfd, model_folders[None], *EXAMPLES["embeddings"], "--dtype", dtype)
    difference = np.abs(np.subtract(row["prediction"], one_example("embeddings")["prediction"])).max()
    assert 0 < difference < 0.2


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        (None, "--text x", "config.json names no head: choose a task with --task; its tensors serve embeddings"),
        (None, "--text x --task fill-mask", "no head for fill-mask; its tensors serve embeddings"),
        ("masked_lm", "--text x --task classification", "no head for classification; its tensors serve fill-mask,"),
        ("sequence_classification", "--text x --task token-classification", "its tensors serve classification,"),
        ("token_classification", "--text x --task classification", "tensors serve token-classification, embeddings"),
        ("masked_lm", "", "fill-mask needs --text, or a file of examples: --input"),
        ("question_answering", "--question x", "question-answering needs --context, or"),
        ("question_answering", "--question x --question y --context z", "2 of --question and 1 of --context: each"),
        ("question_answering", "--text x", "--text: not used by question-answering, which takes --question and --c"),
        ("masked_lm", "--text x --input y", "--text and --input exclude each other: use one of them"),
        ("masked_lm", "--input nowhere.jsonl", "nowhere.jsonl: no such file"),
        ("masked_lm", "--input .", ".: cannot be read (Is a directory)"),
        ("masked_lm", "--text x --output .", ". is a folder: name a file with --output"),
        ("masked_lm", "--text x --labels a", "--labels is for zero-shot, but the task is fill-mask"),
        ("masked_lm", "--text x --pooling cls", "--pooling is for embeddings, but the task is fill-mask"),
        (
            None,
            "--text x --task embeddings --top-k 3",
            "--top-k is for fill-mask, generate, but the task is embeddings",
        ),
        ("masked_lm", "--text x --top-k 0", "top_k is 0; it must be at least 1"),
        ("masked_lm", "--text x --max-length 2", "max_length is 2; it must be at least 3"),
        ("masked_lm", "--text x --max-length 64", "max_length is 64, but the model has 16 absolute positions"),
        ("masked_lm", "--text x --generator", "pytorch_model.generator.bin"),
        ("masked_lm", "--text x --return attentions", "--return writes arrays next to the output: name a file"),
        ("multiple_choice", "--text x --choices y --return attentions --output o", "multiple-choice reads several"),
        ("sequence_classification", "--text x --task zero-shot", "zero-shot needs the labels to choose from: --labels"),
        ("sequence_classification", "--text x --task zero-shot --labels a --template b", "has no {} for the label"),
        ("masked_lm", "--text x --revision main", "revision main"),
    ],
)
def test_options_that_exclude_each_other_are_rejected_in_one_line(
    model_folders, capfd, monkeypatch, tmp_path, head, options, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", model_folders[head], *options.split()]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("deberta-jax predict: ")
    assert err.count("\n") == 1
    assert message in err
    assert not os.listdir(tmp_path)


def test_a_folder_without_a_model_or_a_tokenizer_is_rejected(masked_lm, tmp_path, capfd):
    assert main(["predict", str(tmp_path), "--text", "x"]) == 2
    assert "config.json: no such file" in capfd.readouterr().err
    folder = shutil.copytree(masked_lm, tmp_path / "model")
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    assert main(["predict", str(folder), "--text", "x"]) == 2
    assert "no tokenizer in this folder" in capfd.readouterr().err


def test_a_result_that_is_not_finite_is_an_error_of_its_line(model_folders, tmp_path, capfd):
    tensors = tensors_of(model_folders["sequence_classification"])
    tensors["classifier.bias"] = np.full_like(tensors["classifier.bias"], np.nan)
    folder = copy_with(tensors, model_folders["sequence_classification"], tmp_path / "model")
    assert main(["predict", folder, "--text", "x"]) == 2
    [line] = printed_lines(capfd)
    assert line["line"] == 1 and "'x' gives outputs that are not finite numbers" in line["error"]


def test_the_help_explains_tasks_invalid_lines_and_interruptions(capfd):
    assert main(["predict", "--help"]) == 0
    text = " ".join(capfd.readouterr().out.replace("│", " ").split())
    for part in ("fill-mask", '{"line": 7, "error": "..."}', "exit code is 2", "OUTPUT.progress", "(default: 4096)"):
        assert part in text


def test_labels_of_the_test_models_are_those_of_their_heads(model_folders):
    for head, labels in LABELS.items():
        config = json.loads((Path(model_folders[head]) / "config.json").read_text())
        assert tuple(config["id2label"].values()) == labels


def test_a_sentence_encoder_gives_the_vectors_of_its_folder(tmp_path, capfd):
    settings = {"prompts": {"query": "the fox: "}, "default_prompt_name": "query"}
    folder = write_sentence_folder(
        tmp_path / "st", {"pooling_mode": "max"}, "Normalize", path="0_Transformer", settings=settings
    )
    model, tokenizer = load(folder, None)
    row = predict_one(capfd, str(folder), "--text", "A man eats.")
    np.testing.assert_allclose(row["prediction"], dj.embed(model, tokenizer, ["A man eats."])[0], atol=1e-6)
    row = predict_one(capfd, str(folder), "--text", "A man eats.", "--prompt", "", "--pooling", "mean")
    expected = dj.embed(model, tokenizer, ["A man eats."], prompt="", pooling="mean")[0]
    np.testing.assert_allclose(row["prediction"], expected, atol=1e-6)
    assert main(["predict", str(folder), "--text", "A", "--prompt", "passage"]) == 2
    assert "no prompt named 'passage' (it has query)" in capfd.readouterr().err


def test_an_adapter_is_read_with_its_base(model_folders, tmp_path, capfd):
    head = "sequence_classification"
    base = model_folders[head]
    size = json.loads((Path(base) / "config.json").read_text())["hidden_size"]
    tensors = matrices("deberta.encoder.layer.0.attention.self.query_proj", size, size)
    folder = write_adapter(tmp_path / "adapter", tensors, "me/unknown", task_type="SEQ_CLS")
    row = predict_one(capfd, str(folder), "--base", str(base), *EXAMPLES["classification"])
    model, tokenizer = dj.from_pretrained(folder, head, base=base, dtype="float32", param_dtype="float32")
    [expected] = dj.classify(model, tokenizer, ["A fox."], ["A dog."])
    assert row["prediction"]["label"] == expected.label
    assert row["prediction"]["probability"] == pytest.approx(expected.probability, abs=1e-5)
