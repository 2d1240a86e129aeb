"""`deberta-jax predict` with rerankers, reward models, functions of logits and unnamed labels."""

import json
import shutil

import pytest
from json_lines import printed_lines, write_lines
from toy_tables import write_table

import deberta_jax as dj
from deberta_jax.cli.main import main

DOCUMENTS = ["a dog", "the fox", "sea", ""]


@pytest.fixture(scope="module")
def model(reranker):
    """The model and the tokenizer, with the data types of the command."""
    return dj.from_pretrained(reranker, "sequence_classification", dtype="float32", param_dtype="float32")


def run(capfd, *words):
    """The lines of a command."""
    capfd.readouterr()
    assert main(["predict", *map(str, words)]) == 0
    return printed_lines(capfd)


def rounded(ranked):
    return [{**item._asdict(), "score": pytest.approx(item.score, rel=1e-5)} for item in ranked]


def test_rank_gives_the_best_documents_of_each_query(model, reranker, tmp_path, capfd):
    rows = [{"query": "fox", "documents": DOCUMENTS, "id": 3}, {"query": "sea", "documents": DOCUMENTS[:1]}]
    for options, arguments in (
        ([], {}),
        (["--top", 2, "--function", "none"], {"top": 2, "function": "none"}),
        (["--top", "None", "--windows"], {"top": None, "windows": True}),
    ):
        path = write_lines(tmp_path / "in.jsonl", *rows)
        results = run(capfd, reranker, "--task", "rank", "--input", path, *options)
        assert [{key: row[key] for key in row if key != "prediction"} for row in results] == rows
        expected = [dj.rank(*model, row["query"], row["documents"], **arguments) for row in rows]
        assert [row["prediction"] for row in results] == [rounded(ranked) for ranked in expected]
    [row] = run(capfd, reranker, "--task", "rank", "--query", "fox", "--documents", *DOCUMENTS[:3])
    assert row["prediction"] == rounded(dj.rank(*model, "fox", DOCUMENTS[:3]))


@pytest.mark.parametrize("name", ["documents.txt", "documents.csv", "documents.jsonl"])
def test_the_documents_of_all_queries_are_in_a_file(name, model, reranker, tmp_path, capfd):
    path = tmp_path / name
    if name.endswith("txt"):
        # Blank lines are no documents.
        path.write_text("".join(f"{document}\n\n \n" for document in DOCUMENTS))
    else:
        write_table(path, [{"n": number, "text": document} for number, document in enumerate(DOCUMENTS)])
    queries = write_lines(tmp_path / "queries.jsonl", {"query": "fox"}, {"query": ""}, {"query": "sea"})
    command = [reranker, "--task", "rank", "--documents-file", path]
    assert main(["predict", *map(str, command), "--input", queries]) == 2
    first, error, last = printed_lines(capfd)
    assert error == {"line": 2, "error": '"query" is empty'}
    for row in (first, last):
        expected = dj.rank(*model, row["query"], DOCUMENTS[:3] if name.endswith("txt") else DOCUMENTS)
        assert row == {"query": row["query"], "prediction": rounded(expected)}
    assert run(capfd, *command, "--query", "fox") == [first]


def test_an_output_of_rank_is_not_resumed_with_other_documents(reranker, tmp_path, capfd, monkeypatch):
    (tmp_path / "documents.txt").write_text("fox\n")
    (tmp_path / "queries.csv").write_text("query\nsea\ndog\n")
    files = ["--input", str(tmp_path / "queries.csv"), "--documents-file", str(tmp_path / "documents.txt")]
    command = ["predict", reranker, "--task", "rank", *files, "--output", str(tmp_path / "out.jsonl")]
    with monkeypatch.context() as patch:
        patch.setattr("deberta_jax.cli.predict_output._remove_settings", lambda started: None)
        assert main(command) == 0
    (tmp_path / "documents.txt").write_text("dog\n")
    assert main(command) == 2
    assert "was started with other settings: documents (" in capfd.readouterr().err


def test_score_gives_a_number(model, reranker, capfd):
    for options, arguments in (([], {}), (["--function", "sigmoid"], {"function": "sigmoid"})):
        [row] = run(capfd, reranker, "--task", "score", "--text", "A fox.", "--pair", "A dog.", *options)
        [expected] = dj.score(*model, ["A fox."], ["A dog."], **arguments)
        assert row == {"text": "A fox.", "pair": "A dog.", "prediction": pytest.approx(float(expected), rel=1e-6)}


def test_the_function_of_a_classifier_is_an_option(model_folders, capfd):
    folder = model_folders["sequence_classification"]
    rows = {name: run(capfd, folder, "--text", "A fox.", "--function", name) for name in ("auto", "softmax", "none")}
    assert rows["auto"] == rows["softmax"]
    assert set(rows["none"][0]["prediction"]) == {"value", "values"}


def test_unnamed_labels_of_a_zero_shot_model(model_folders, tmp_path, capfd):
    shutil.copytree(model_folders["sequence_classification"], tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    names = [f"LABEL_{index}" for index in range(3)]
    path.write_text(json.dumps(config | {"id2label": dict(enumerate(names)), "label2id": {}}))
    command = ["--text", "A fox.", "--task", "zero-shot", "--labels", "fox", "sea", "--template", "{}"]
    assert main(["predict", str(tmp_path / "model"), *command]) == 2
    assert "name its label of entailment with entailment=... (--entailment)" in capfd.readouterr().err
    named = run(capfd, model_folders["sequence_classification"], *command)
    assert run(capfd, tmp_path / "model", *command, "--entailment", "LABEL_2") == named


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--task rank", "rank needs --query and --documents or --documents-file, or a file of examples: --input"),
        ("--task rank --query a", "rank needs --documents or --documents-file, or a file"),
        ("--task rank --query a --documents b --documents-file c", "--documents and --documents-file exclude each"),
        ("--task rank --query a --documents-file none.txt", "none.txt: no such file"),
        ("--task rank --query a --documents-file empty.txt", "empty.txt: no texts"),
        ("--task rank --query a --documents-file bad.jsonl", 'bad.jsonl, line 2: "text" must be a string'),
        ("--task rank --query a --documents-file other.csv", 'other.csv: no column "text" (columns: "review"); name'),
        ("--task rank --query a --input empty.txt", "exclude each other: pass a file of documents as --documents-file"),
        ("--task rank --text a", "--text: not used by rank, which takes --query and --documents"),
        ("--task rank --query a --documents b --top 0", "top is 0; it must be at least 1"),
        ("--task rank --query a --documents b --relevant c", "relevant is 'c', but the model's labels are LABEL_0"),
        ("--task rank --query a --documents b --function softmax", "the softmax of a single label is always 1"),
        ("--task rank --query a --documents b --return attentions --output o", "rank reads several sequences"),
        ("--task score --text a --documents-file empty.txt", "--documents-file is for rank, but the task is score"),
        ("--task score --text a --top 3", "--top is for rank, but the task is score"),
        ("--task score --text a --entailment b", "--entailment is for zero-shot, but the task is score"),
        (
            "--task embeddings --text a --function none",
            "--function is for classification, score, rank, but the task is",
        ),
        ("--text a --function tanh", "--function cannot be 'tanh'; choose auto, sigmoid, softmax, none"),
    ],
)
def test_wrong_options_are_rejected_in_one_line(options, message, reranker, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bad.jsonl").write_text('{"text": "fox"}\n{"text": 3}\n')
    (tmp_path / "other.csv").write_text("review\nfox\n")
    assert main(["predict", reranker, *options.split()]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
