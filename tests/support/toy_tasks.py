"""A few rows of each task in its official format, with what real files have that is unkind."""

import csv
import json

# Sentences whose words are good or bad, so that something can be learned.
GOOD = ["A man eats there.", "She sells sea shells.", "The quick fox finds it.", 'The "lazy dog jumps.']
BAD = ["A woman sings!", "He's sure of it.", "Where do words come from?", "It flows from offices, they'd said."]


def _tabs(path, header, rows, *, ending="\n", mark=""):
    lines = ([] if header is None else ["\t".join(header)]) + ["\t".join(map(str, row)) for row in rows]
    path.write_bytes((mark + ending.join(lines) + ending).encode())


def _objects(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def sentences(number):
    """Texts and a bit for each."""
    return [((GOOD if bit else BAD)[k % 4], bit) for k in range(number) for bit in [int(k % 3 > 0)]]


def cola(folder):
    for split, number in (("train", 12), ("dev", 6)):
        _tabs(folder / f"{split}.tsv", None, [("gj04", bit, "*" * (1 - bit), text) for text, bit in sentences(number)])
    _tabs(folder / "test.tsv", ("index", "sentence"), [(k, text) for k, (text, _) in enumerate(sentences(5))])


def sst2(folder):
    for split, number in (("train", 12), ("dev", 6)):
        _tabs(folder / f"{split}.tsv", ("sentence", "label"), [(f"{text} ", bit) for text, bit in sentences(number)])
    _tabs(folder / "test.tsv", ("index", "sentence"), [(k, text) for k, (text, _) in enumerate(sentences(5))])


def mrpc(folder):
    header = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
    for split, number in (("train", 12), ("dev", 6)):
        rows = [(bit, 10 + k, 20 + k, text, "A man eats.") for k, (text, bit) in enumerate(sentences(number))]
        # As Microsoft wrote it.
        _tabs(folder / f"{split}.tsv", header, rows, ending="\r\n", mark="\ufeff")
    rows = [(k, 10, 20, text, "A man eats.") for k, (text, _) in enumerate(sentences(5))]
    _tabs(folder / "test.tsv", ("index", *header[1:]), rows, mark="\ufeff")


def stsb(folder):
    header = (
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
    )
    for split, number in (("train", 12), ("dev", 6), ("test", 5)):
        rows = [
            (k, "news", "f", "2012", k, "none", "none", text, 'A "man eats.', f"{bit * 4 + 0.1 * (k % 5):.3f}")
            for k, (text, bit) in enumerate(sentences(number))
        ]
        cut = len(header) - (split == "test")
        _tabs(folder / f"{split}.tsv", header[:cut], [row[:cut] for row in rows])


def qqp(folder):
    header = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
    for split, number in (("train", 40), ("dev", 6)):
        rows = [(k, k, k, text, "Who eats?", bit) for k, (text, bit) in enumerate(sentences(number))]
        # Such a row is in the real file.
        more = [("99", "1", "2", "cut off")] * (split == "train")
        _tabs(folder / f"{split}.tsv", header, [*rows, *more])
    rows = [(k, text, "Who eats?") for k, (text, _) in enumerate(sentences(5))]
    _tabs(folder / "test.tsv", ("id", "question1", "question2"), rows)


def mnli(folder):
    labels = "contradiction", "neutral", "entailment"
    first = ("index", "promptID", "pairID", "genre", "b1", "b2", "p1", "p2", "sentence1", "sentence2")
    for name, number, votes in (("train", 30, 1), ("dev_matched", 40, 5), ("dev_mismatched", 6, 5)):
        header = (*first, *(f"label{k + 1}" for k in range(votes)), "gold_label")
        rows = [
            (k, k, f"{k}e", f"genre{k % 2}", *"xxxx", text, "A man eats.", *[labels[k % 3]] * (votes + 1))
            for k, (text, _) in enumerate(sentences(number))
        ]
        if name == "dev_matched":
            rows.append((*rows[0][:-1], "-"))
        _tabs(folder / f"{name}.tsv", header, rows)
    for name in ("test_matched", "test_mismatched"):
        rows = [(k, k, k, "g", *"xxxx", text, "A man eats.") for k, (text, _) in enumerate(sentences(5))]
        _tabs(folder / f"{name}.tsv", first, rows)


def _pair_tabs(folder, header, label, *, test=True):
    for split, number in (("train", 12), ("dev", 6)):
        rows = [(k, text, "A man eats.", label(bit)) for k, (text, bit) in enumerate(sentences(number))]
        _tabs(folder / f"{split}.tsv", (*header, "label"), rows)
    if test:
        _tabs(folder / "test.tsv", header, [(k, text, "A man eats.") for k, (text, _) in enumerate(sentences(5))])


def qnli(folder):
    _pair_tabs(folder, ("index", "question", "sentence"), lambda bit: ("not_entailment", "entailment")[bit])


def rte(folder):
    _pair_tabs(folder, ("index", "sentence1", "sentence2"), lambda bit: ("not_entailment", "entailment")[bit])


def wnli(folder):
    _pair_tabs(folder, ("index", "sentence1", "sentence2"), str)


def ax(folder):
    rows = [(k, text, "A man eats.") for k, (text, _) in enumerate(sentences(5))]
    _tabs(folder / "diagnostic.tsv", ("index", "sentence1", "sentence2"), rows)


def _splits(folder, row, *, label="label"):
    for name, number in (("train", 12), ("val", 6), ("test", 5)):
        rows = [row(k, text, bit) for k, (text, bit) in enumerate(sentences(number))]
        if name == "test":
            rows = [{key: value for key, value in one.items() if key != label} for one in rows]
        _objects(folder / f"{name}.jsonl", rows)


def boolq(folder):
    _splits(folder, lambda k, t, b: {"question": "does a man eat", "passage": t, "idx": k, "label": bool(b)})


def cb(folder):
    labels = "contradiction", "neutral", "entailment"
    _splits(folder, lambda k, t, b: {"premise": t, "hypothesis": "a man eats", "label": labels[k % 3], "idx": k})


def copa(folder):
    _splits(
        folder,
        lambda k, t, b: {
            "premise": "A man eats.",
            "choice1": (BAD[0], t)[1 - b],
            "choice2": (t, GOOD[0])[b],
            "question": ("cause", "effect")[k % 2],
            "label": b,
            "idx": k,
        },
    )


def multirc(folder):
    def row(k, text, answered):
        answers = [
            {"text": answer, "idx": place} | ({"label": place % 2} if answered else {})
            for place, answer in enumerate(("a fox", "a man", "a woman"))
        ]
        questions = [{"question": "Who eats?", "answers": answers, "idx": 2 * k + n} for n in range(2)]
        return {"passage": {"text": text, "questions": questions}, "idx": k}

    for name, number in (("train", 4), ("val", 2), ("test", 2)):
        rows = [row(k, text, name != "test") for k, (text, _) in enumerate(sentences(number))]
        _objects(folder / f"{name}.jsonl", rows)


def record(folder):
    text = "A man eats in Köln. A woman sings there.\n@highlight\nThe man is sure of it."
    entities = [{"start": 0, "end": 4}, {"start": 14, "end": 17}, {"start": 20, "end": 26}]

    def row(k, answered):
        answer = {"answers": [{"start": 20, "end": 26, "text": "A woman"}]} if answered else {}
        return {
            "source": "made",
            "passage": {"text": text, "entities": entities},
            "qas": [{"query": "@placeholder sings every day.", "idx": k} | answer],
            "idx": k,
        }

    for name, number in (("train", 6), ("val", 2), ("test", 2)):
        _objects(folder / f"{name}.jsonl", [row(k, name != "test") for k in range(number)])


def superglue_rte(folder):
    labels = "not_entailment", "entailment"
    _splits(folder, lambda k, t, b: {"premise": t, "hypothesis": "A man eats.", "label": labels[b], "idx": k})


def wic(folder):
    _splits(
        folder,
        lambda k, t, b: {
            "word": "eats",
            "sentence1": "A man eats there.",
            "sentence2": "She eats shells." if b else "He eats it.",
            "start1": 6,
            "end1": 10,
            "start2": 4 if b else 3,
            "end2": 8 if b else 7,
            "label": bool(b),
            "idx": k,
        },
    )


def wsc(folder):
    def row(k, text, bit):
        target = {
            "span1_text": ("A woman", "The man")[bit],
            "span1_index": (4, 0)[bit],
            "span2_text": "he",
            "span2_index": 7,
        }
        # The last place is wrong by one, as in the real files.
        return {
            "text": "The man eats. A woman sings, and he's sure. Then he flows.",
            "target": target,
            "label": bool(bit),
            "idx": k,
        }

    _splits(folder, row)


def ax_b(folder):
    rows = [
        {"sentence1": t, "sentence2": "A man eats.", "label": ("not_entailment", "entailment")[b], "idx": k}
        for k, (t, b) in enumerate(sentences(5))
    ]
    _objects(folder / "AX-b.jsonl", rows)


def ax_g(folder):
    rows = [
        {"premise": t, "hypothesis": "A man eats.", "label": ("not_entailment", "entailment")[b], "idx": k}
        for k, (t, b) in enumerate(sentences(5))
    ]
    _objects(folder / "AX-g.jsonl", rows)


CONTEXT = "A man eats in Köln. A woman sings there every day, and the quick brown fox jumps over the lazy dog."


def _questions(impossible):
    asked = [("Who eats?", "A man", 0), ("Who sings?", "A woman", 20), ("What jumps?", "the quick brown fox", 50)]
    found = []
    for k in range(6):
        question, answer, start = asked[k % 3]
        # The last answer stands four characters further than it says.
        answers = [{"text": answer, "answer_start": start}]
        one = {"id": f"q{k}", "question": question, "answers": answers}
        if impossible:
            one |= {"is_impossible": k % 3 == 1, "answers": [] if k % 3 == 1 else answers}
        found.append(one)
    return found


def _squad(folder, version):
    for split in ("train", "dev"):
        paragraph = {"context": CONTEXT, "qas": _questions(version == "v2.0")}
        values = {"version": version.lstrip("v"), "data": [{"title": "t", "paragraphs": [paragraph]}]}
        (folder / f"{split}-{version}.json").write_text(json.dumps(values))


def squad(folder):
    _squad(folder, "v1.1")


def squad2(folder):
    _squad(folder, "v2.0")


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
    for split, number in (("train", 8), ("val", 4), ("test", 4)):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            header = ["", "video-id", "fold-ind", "startphrase", "sent1", "sent2", "gold-source"]
            rows.writerow([*header, "ending0", "ending1", "ending2", "ending3", *["label"] * (split != "test")])
            for k, (text, _) in enumerate(sentences(number)):
                endings = ["eats, there.", "sings\nevery day.", 'says "shells".', "flows."]
                rows.writerow(
                    [k, "v", k, f"{text} A man", text, "A man", "gold", *endings, *[k % 4] * (split != "test")]
                )


def ner(folder):
    lines = [
        "-DOCSTART- -X- -X- O",
        "",
        "Köln NNP I-NP I-LOC",
        "sings VBZ I-VP O",
        "",
        "A DT I-NP O",
        "man NN I-NP I-PER",
        ". . O O",
        "",
    ]
    text = "\r\n".join([*lines, "-DOCSTART- -X- -X- O", "", *lines])
    for name in ("train.txt", "valid.txt", "test.txt"):
        (folder / name).write_bytes(text.encode())


def anli(folder):
    for level in ("R1", "R2", "R3"):
        (folder / level).mkdir()
        for split, number in (("train", 6), ("dev", 3), ("test", 3)):
            rows = [
                {
                    "uid": f"{level}-{k}",
                    "context": text,
                    "hypothesis": "A man eats.",
                    "label": "enc"[k % 3],
                    "reason": "",
                }
                for k, (text, _) in enumerate(sentences(number))
            ]
            _objects(folder / level / f"{split}.jsonl", rows)


def xnli(folder):
    labels = "contradictory", "neutral", "entailment"
    rows = [(text, "A man eats.", labels[k % 3]) for k, (text, _) in enumerate(sentences(12))]
    _tabs(folder / "multinli.train.en.tsv", ("premise", "hypo", "label"), rows)
    header = ("language", "gold_label", "sentence1_binary_parse", "sentence1", "sentence2", "promptID", "pairID")
    for split in ("dev", "test"):
        rows = [
            (language, ("contradiction", "neutral", "entailment")[k % 3], "", text, "A man eats.", k, k)
            for language in ("en", "de", "zh")
            for k, (text, _) in enumerate(sentences(3))
        ]
        _tabs(folder / f"xnli.{split}.tsv", header, rows)


MADE = {
    "cola": cola,
    "sst-2": sst2,
    "mrpc": mrpc,
    "sts-b": stsb,
    "qqp": qqp,
    "mnli": mnli,
    "qnli": qnli,
    "rte": rte,
    "wnli": wnli,
    "ax": ax,
    "boolq": boolq,
    "cb": cb,
    "copa": copa,
    "multirc": multirc,
    "record": record,
    "superglue-rte": superglue_rte,
    "wic": wic,
    "wsc": wsc,
    "ax-b": ax_b,
    "ax-g": ax_g,
    "squad": squad,
    "squad2": squad2,
    "race": race,
    "swag": swag,
    "ner": ner,
    "anli": anli,
    "xnli": xnli,
}
