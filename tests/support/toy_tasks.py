"""A few rows of each task in its official format, including the irregularities of the real files."""

import csv
import json
from pathlib import Path

# The label of a sentence follows from its words.
POSITIVE = ["A man eats there.", "She sells sea shells.", "The quick fox finds it.", 'The "lazy dog jumps.']
NEGATIVE = ["A woman sings!", "He's sure of it.", "Where do words come from?", "It flows from offices, they'd said."]
HYPOTHESIS = "A man eats."
CONTEXT = "A man eats in Köln. A woman sings there every day, and the quick brown fox jumps over the lazy dog."
NLI = "contradiction", "neutral", "entailment"
ENTAILMENT = "not_entailment", "entailment"
# Examples of most tasks by split.
TRAIN, DEV, TEST = 12, 6, 5
LABELLED = (("train", TRAIN), ("dev", DEV))


def labelled_sentences(number):
    """Sentences with a label of 0 or 1."""
    return [((POSITIVE if label else NEGATIVE)[k % 4], label) for k in range(number) for label in [int(k % 3 > 0)]]


def _write_tsv(path, header, rows, *, line_end="\n", mark=""):
    lines = ([] if header is None else ["\t".join(header)]) + ["\t".join(map(str, row)) for row in rows]
    path.write_bytes((mark + line_end.join(lines) + line_end).encode())


def _write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_splits(folder, row, number_of_test=TEST):
    """SuperGLUE's splits of rows `row(k, sentence, label)`; those of the test set have no label."""
    for name, number in (("train", TRAIN), ("val", DEV), ("test", number_of_test)):
        rows = [row(k, text, label) for k, (text, label) in enumerate(labelled_sentences(number))]
        if name == "test":
            rows = [{key: value for key, value in values.items() if key != "label"} for values in rows]
        _write_jsonl(folder / f"{name}.jsonl", rows)


def cola(folder):
    for split, number in LABELLED:
        rows = [("gj04", label, "*" * (1 - label), text) for text, label in labelled_sentences(number)]
        _write_tsv(folder / f"{split}.tsv", None, rows)
    _write_sentences_test(folder)


def _write_sentences_test(folder):
    rows = [(k, text) for k, (text, _) in enumerate(labelled_sentences(TEST))]
    _write_tsv(folder / "test.tsv", ("index", "sentence"), rows)


def sst2(folder):
    for split, number in LABELLED:
        rows = [(f"{text} ", label) for text, label in labelled_sentences(number)]
        _write_tsv(folder / f"{split}.tsv", ("sentence", "label"), rows)
    _write_sentences_test(folder)


def mrpc(folder):
    """Microsoft's files have CRLF line ends and a byte-order mark."""
    header = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
    for split, number in LABELLED:
        rows = [(label, 10 + k, 20 + k, text, HYPOTHESIS) for k, (text, label) in enumerate(labelled_sentences(number))]
        _write_tsv(folder / f"{split}.tsv", header, rows, line_end="\r\n", mark="\ufeff")
    rows = [(k, 10, 20, text, HYPOTHESIS) for k, (text, _) in enumerate(labelled_sentences(TEST))]
    _write_tsv(folder / "test.tsv", ("index", *header[1:]), rows, mark="\ufeff")


def stsb(folder):
    header = [
        "index",
        "genre",
        "filename",
        "year",
        "old_index",
        "source1",
        "source2",
        "sentence1",
        "sentence2",
        "score",
    ]
    for split, number in (*LABELLED, ("test", TEST)):
        rows = [
            (k, "news", "f", "2012", k, "none", "none", text, 'A "man eats.', f"{label * 4 + 0.1 * (k % 5):.3f}")
            for k, (text, label) in enumerate(labelled_sentences(number))
        ]
        width = len(header) - (split == "test")
        _write_tsv(folder / f"{split}.tsv", header[:width], [row[:width] for row in rows])


def qqp(folder):
    """The real training file has a truncated row, too."""
    header = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
    for split, number in (("train", 40), ("dev", DEV)):
        rows = [(k, k, k, text, "Who eats?", label) for k, (text, label) in enumerate(labelled_sentences(number))]
        _write_tsv(folder / f"{split}.tsv", header, [*rows, *[("99", "1", "2", "cut off")] * (split == "train")])
    rows = [(k, text, "Who eats?") for k, (text, _) in enumerate(labelled_sentences(TEST))]
    _write_tsv(folder / "test.tsv", ("id", "question1", "question2"), rows)


def mnli(folder):
    """A pair of the development set has no gold label."""
    columns = ("index", "promptID", "pairID", "genre", "b1", "b2", "p1", "p2", "sentence1", "sentence2")
    for name, number, votes in (("train", 30, 1), ("dev_matched", 40, 5), ("dev_mismatched", DEV, 5)):
        header = (*columns, *(f"label{k + 1}" for k in range(votes)), "gold_label")
        rows = [
            (k, k, f"{k}e", f"genre{k % 2}", *"xxxx", text, HYPOTHESIS, *[NLI[k % 3]] * (votes + 1))
            for k, (text, _) in enumerate(labelled_sentences(number))
        ]
        if name == "dev_matched":
            rows.append((*rows[0][:-1], "-"))
        _write_tsv(folder / f"{name}.tsv", header, rows)
    for name in ("test_matched", "test_mismatched"):
        rows = [(k, k, k, "g", *"xxxx", text, HYPOTHESIS) for k, (text, _) in enumerate(labelled_sentences(TEST))]
        _write_tsv(folder / f"{name}.tsv", columns, rows)


def _pairs(second, labels):
    """A writer of the three splits of pairs, with columns index, `second` names and label."""

    def write(folder):
        for split, number in (*LABELLED, ("test", TEST)):
            rows = [
                (k, text, HYPOTHESIS, *[labels[label]] * (split != "test"))
                for k, (text, label) in enumerate(labelled_sentences(number))
            ]
            _write_tsv(folder / f"{split}.tsv", ("index", *second, *["label"] * (split != "test")), rows)

    return write


def ax(folder):
    rows = [(k, text, HYPOTHESIS) for k, (text, _) in enumerate(labelled_sentences(TEST))]
    _write_tsv(folder / "diagnostic.tsv", ("index", "sentence1", "sentence2"), rows)


def boolq(folder):
    _write_splits(folder, lambda k, t, b: {"question": "does a man eat", "passage": t, "idx": k, "label": bool(b)})


def cb(folder):
    _write_splits(folder, lambda k, t, b: {"premise": t, "hypothesis": "a man eats", "label": NLI[k % 3], "idx": k})


def copa(folder):
    def row(k, text, label):
        choices = (text, POSITIVE[0]) if label == 0 else (NEGATIVE[0], text)
        return {
            "premise": HYPOTHESIS,
            "choice1": choices[0],
            "choice2": choices[1],
            "question": ("cause", "effect")[k % 2],
            "label": label,
            "idx": k,
        }

    _write_splits(folder, row)


def multirc(folder):
    def row(k, text, has_labels):
        answers = [
            {"text": answer, "idx": index} | ({"label": index % 2} if has_labels else {})
            for index, answer in enumerate(("a fox", "a man", "a woman"))
        ]
        questions = [{"question": "Who eats?", "answers": answers, "idx": 2 * k + n} for n in range(2)]
        return {"passage": {"text": text, "questions": questions}, "idx": k}

    for name, number in (("train", 4), ("val", 2), ("test", 2)):
        rows = [row(k, text, name != "test") for k, (text, _) in enumerate(labelled_sentences(number))]
        _write_jsonl(folder / f"{name}.jsonl", rows)


def record(folder):
    text = "A man eats in Köln. A woman sings there.\n@highlight\nThe man is sure of it."
    entities = [{"start": 0, "end": 4}, {"start": 14, "end": 17}, {"start": 20, "end": 26}]

    def row(k, has_answers):
        answers = {"answers": [{"start": 20, "end": 26, "text": "A woman"}]} if has_answers else {}
        return {
            "source": "toy",
            "passage": {"text": text, "entities": entities},
            "qas": [{"query": "@placeholder sings every day.", "idx": k} | answers],
            "idx": k,
        }

    for name, number in (("train", 6), ("val", 2), ("test", 2)):
        _write_jsonl(folder / f"{name}.jsonl", [row(k, name != "test") for k in range(number)])


def superglue_rte(folder):
    _write_splits(folder, lambda k, t, b: {"premise": t, "hypothesis": HYPOTHESIS, "label": ENTAILMENT[b], "idx": k})


def wic(folder):
    def row(k, text, label):
        sentence, start = (("He eats it.", 3), ("She eats shells.", 4))[label]
        return {
            "word": "eats",
            "sentence1": "A man eats there.",
            "sentence2": sentence,
            "start1": 6,
            "end1": 10,
            "start2": start,
            "end2": start + 4,
            "label": bool(label),
            "idx": k,
        }

    _write_splits(folder, row)


def wsc(folder):
    """The pronoun's index is wrong by one, as in some real rows."""

    def row(k, text, label):
        noun, index = (("A woman", 4), ("The man", 0))[label]
        return {
            "text": "The man eats. A woman sings, and he's sure. Then he flows.",
            "target": {"span1_text": noun, "span1_index": index, "span2_text": "he", "span2_index": 7},
            "label": bool(label),
            "idx": k,
        }

    _write_splits(folder, row)


def _diagnostics(name, text, pair):
    def write(folder):
        rows = [
            {text: sentence, pair: HYPOTHESIS, "label": ENTAILMENT[label], "idx": k}
            for k, (sentence, label) in enumerate(labelled_sentences(TEST))
        ]
        _write_jsonl(folder / f"{name}.jsonl", rows)

    return write


def _questions(version):
    """Six questions on `CONTEXT`; the last answer begins four characters after its offset."""
    questions = []
    for k in range(6):
        text, answer, start = (
            ("Who eats?", "A man", 0),
            ("Who sings?", "A woman", 20),
            ("What jumps?", "the quick brown fox", 50),
        )[k % 3]
        answers = [{"text": answer, "answer_start": start}]
        question = {"id": f"q{k}", "question": text, "answers": answers}
        if version == "v2.0":
            question |= {"is_impossible": k % 3 == 1, "answers": [] if k % 3 == 1 else answers}
        questions.append(question)
    return questions


def _squad(version):
    def write(folder):
        for split in ("train", "dev"):
            paragraph = {"context": CONTEXT, "qas": _questions(version)}
            values = {"version": version.lstrip("v"), "data": [{"title": "t", "paragraphs": [paragraph]}]}
            (folder / f"{split}-{version}.json").write_text(json.dumps(values))

    return write


def race(folder):
    for split in ("train", "dev", "test"):
        for level in ("middle", "high"):
            (folder / split / level).mkdir(parents=True)
            for number in range(2):
                values = {
                    "article": CONTEXT,
                    "questions": ["Who eats?", "_ sings there."],
                    "options": [["A man", "A woman", "A fox", "A dog"]] * 2,
                    "answers": ["A", "B"],
                    "id": f"{level}{number}.txt",
                }
                (folder / split / level / f"{number}.txt").write_text(json.dumps(values))


def swag(folder):
    header = ["", "video-id", "fold-ind", "startphrase", "sent1", "sent2", "gold-source"]
    header += [f"ending{number}" for number in range(4)]
    endings = ["eats, there.", "sings\nevery day.", 'says "shells".', "flows."]
    for split, number in (("train", 8), ("val", 4), ("test", 4)):
        has_labels = split != "test"
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow([*header, *["label"] * has_labels])
            for k, (text, _) in enumerate(labelled_sentences(number)):
                row = [k, "v", k, f"{text} A man", text, "A man", "gold", *endings]
                rows.writerow([*row, *[k % 4] * has_labels])


def ner(folder):
    document = ["-DOCSTART- -X- -X- O", "", "Köln NNP I-NP I-LOC", "sings VBZ I-VP O", ""]
    document += ["A DT I-NP O", "man NN I-NP I-PER", ". . O O", ""]
    for name in ("train.txt", "valid.txt", "test.txt"):
        (folder / name).write_bytes("\r\n".join(document * 2).encode())


def anli(folder):
    for level in ("R1", "R2", "R3"):
        (folder / level).mkdir()
        for split, number in (("train", 6), ("dev", 3), ("test", 3)):
            rows = [
                {"uid": f"{level}-{k}", "context": text, "hypothesis": HYPOTHESIS, "label": "enc"[k % 3], "reason": ""}
                for k, (text, _) in enumerate(labelled_sentences(number))
            ]
            _write_jsonl(folder / level / f"{split}.jsonl", rows)


def xnli(folder):
    rows = [
        (text, HYPOTHESIS, ("contradictory", *NLI[1:])[k % 3]) for k, (text, _) in enumerate(labelled_sentences(TRAIN))
    ]
    _write_tsv(folder / "multinli.train.en.tsv", ("premise", "hypo", "label"), rows)
    header = ("language", "gold_label", "sentence1_binary_parse", "sentence1", "sentence2", "promptID", "pairID")
    for split in ("dev", "test"):
        rows = [
            (language, NLI[k % 3], "", text, HYPOTHESIS, k, k)
            for language in ("en", "de", "zh")
            for k, (text, _) in enumerate(labelled_sentences(3))
        ]
        _write_tsv(folder / f"xnli.{split}.tsv", header, rows)


TOY_TASKS = {
    "cola": cola,
    "sst-2": sst2,
    "mrpc": mrpc,
    "sts-b": stsb,
    "qqp": qqp,
    "mnli": mnli,
    "qnli": _pairs(("question", "sentence"), ENTAILMENT),
    "rte": _pairs(("sentence1", "sentence2"), ENTAILMENT),
    "wnli": _pairs(("sentence1", "sentence2"), "01"),
    "ax": ax,
    "boolq": boolq,
    "cb": cb,
    "copa": copa,
    "multirc": multirc,
    "record": record,
    "superglue-rte": superglue_rte,
    "wic": wic,
    "wsc": wsc,
    "ax-b": _diagnostics("AX-b", "sentence1", "sentence2"),
    "ax-g": _diagnostics("AX-g", "premise", "hypothesis"),
    "squad": _squad("v1.1"),
    "squad2": _squad("v2.0"),
    "race": race,
    "swag": swag,
    "ner": ner,
    "anli": anli,
    "xnli": xnli,
}


def write_toy_task(name: str, folder: Path) -> Path:
    """Write the files of a task into a folder, which is created if it does not exist; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    TOY_TASKS[name](folder)
    return folder
