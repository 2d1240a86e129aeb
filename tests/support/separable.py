"""Data sets that a small model learns, one per kind of task: a keyword in each text determines the answer.

All words are single tokens of `toy_tokenizers.write_unigram`, and all texts of a kind have the same length, so that a
run compiles one program.
"""

import csv
import json
import random
from typing import NamedTuple

FILLERS = ("the", "of", "it", "from", "is", "there")
KEYWORDS = ("shells", "eats", "she", "do")
TRAIN, DEV = 128, 16
# Options of `finetune` with which the score below is reached; those of a data set come after them.
LENGTH = 16
OPTIONS = (
    *("--max-length", str(LENGTH), "--epochs", "6", "--batch-size", "16", "--optimizer.learning-rate", "2e-2"),
    *("--evaluate-every", "8", "--checkpoint-every", "10"),
)


class Separable(NamedTuple):
    """A data set: its task, its file in the folder and options; a metric, and a score above any constant answer."""

    task: str
    data: str
    options: tuple[str, ...]
    metric: str
    score: float


def filled(rng, *words, size=5):
    """A text of `size` words in random order that contains `words`."""
    text = [*words, *rng.choices(FILLERS, k=size - len(words))]
    rng.shuffle(text)
    return " ".join(text)


def _write(folder, row, name="{}.jsonl"):
    for split, count, seed in (("train", TRAIN, 1), ("dev", DEV, 2)):
        rng = random.Random(seed)
        rows = [row(rng, number) for number in range(count)]
        (folder / name.format(split)).write_text("".join(json.dumps(values) + "\n" for values in rows))


def single_label(folder):
    """One csv file; a tenth of it is the development set."""
    rng = random.Random(0)
    with (folder / "reviews.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("review", "stars"))
        for number in range(96):
            # The number, which has several tokens, makes each text unique.
            text = filled(rng, KEYWORDS[number % 2])
            rows.writerow((f"{text} {number}", ("bad", "good")[number % 2]))
    options = ("--columns.text", "review", "--columns.label", "stars")
    return Separable("generic", "reviews.csv", options, "accuracy", 0.9)


def multi_label(folder):
    """The keyword selects one of two sets of labels; a constant answer has a precision of one half."""
    labels = (["food"], ["person"])

    def row(rng, number):
        return {"text": filled(rng, KEYWORDS[number % 2]), "label": labels[number % 2]}

    _write(folder, row)
    return Separable("generic", "", ("--columns.kind", "multi_label"), "f1_micro", 0.9)


def regression(folder):
    def row(rng, number):
        return {"text": filled(rng, KEYWORDS[number % 4]), "label": number % 4 - 1.5}

    _write(folder, row)
    return Separable("generic", "", ("--columns.kind", "regression"), "spearman", 0.9)


def ordinal(folder):
    """Levels whose order as texts is another one."""

    def row(rng, number):
        return {"text": filled(rng, KEYWORDS[number % 4]), "label": (2, 9, 10, 11)[number % 4]}

    _write(folder, row)
    # First the model learns to tell the lower from the upper levels.
    options = "--epochs", "16", "--evaluate-every", "32"
    return Separable("generic", "", ("--columns.kind", "ordinal", *options), "quadratic_kappa", 0.9)


def token(folder):
    tags = dict(zip(KEYWORDS, ("B-FOOD", "B-VERB", "B-PERSON", "B-VERB"), strict=True))

    def row(rng, number):
        words = filled(rng, KEYWORDS[number % 4], KEYWORDS[(number + 1) % 4]).split()
        return {"words": words, "tags": [tags.get(word, "O") for word in words]}

    _write(folder, row)
    return Separable("generic", "", ("--columns.kind", "token"), "f1", 0.9)


def extractive_qa(folder):
    def row(rng, number):
        # Every fourth question has no answer.
        answer = KEYWORDS[number % 4] if number % 4 else ""
        return {"question": "is it", "context": filled(rng, answer or "of", size=6), "answer": answer}

    _write(folder, row)
    return Separable("generic", "", ("--columns.kind", "extractive_qa"), "f1", 90.0)


def multiple_choice(folder):
    def row(rng, number):
        choices = [filled(rng, word, size=3) for word in KEYWORDS[1:]]
        choices.insert(number % 4, filled(rng, KEYWORDS[0], size=3))
        return {"text": "is it", "choices": choices, "label": number % 4}

    _write(folder, row)
    return Separable("generic", "", ("--columns.kind", "multiple_choice"), "accuracy", 0.9)


def entity_ranking(folder):
    def row(rng, number):
        passage = filled(rng, *KEYWORDS[:3], size=6)
        starts = {word: f" {passage} ".index(f" {word} ") for word in KEYWORDS[:3]}
        entities = [{"start": start, "end": start + len(word) - 1} for word, start in starts.items()]
        answer = {"start": starts["eats"], "end": starts["eats"] + 3, "text": "eats"}
        return {
            "source": "toy",
            "passage": {"text": passage, "entities": entities},
            "qas": [{"query": "@placeholder it", "idx": number, "answers": [answer]}],
            "idx": number,
        }

    _write(folder, row)
    (folder / "dev.jsonl").rename(folder / "val.jsonl")
    return Separable("record", "", (), "exact_match", 0.9)


def seq2seq(folder):
    """The keyword is the first word of the target; the others are always the same."""

    def row(rng, number):
        word = KEYWORDS[number % 4]
        return {"source": filled(rng, word), "target": f"{word} of it"}

    _write(folder, row)
    # The output is tied to the embeddings, so that the model has to learn to copy.
    options = "--epochs", "30", "--optimizer.learning-rate", "1e-2", "--evaluate-every", "60"
    return Separable("generic", "", ("--columns.kind", "seq2seq", *options), "exact_match", 0.9)


SEPARABLE = {
    function.__name__: function
    for function in (
        *(single_label, multi_label, regression, ordinal, token),
        *(extractive_qa, multiple_choice, entity_ranking, seq2seq),
    )
}
