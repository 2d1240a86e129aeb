"""The files that the commands of each page read, with toy data, under the names that the page has."""

import gzip
import json
import random
import shutil
from pathlib import Path

from page_models import V3, write_saved_model
from toy_tables import write_table
from toy_tasks import CONTEXT, labelled_sentences, write_toy_task
from toy_tokenizers import TEXT, write_unigram

ROWS = labelled_sentences(20)
SENTENCES = TEXT.strip().splitlines()


def write(path, rows):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_table(Path(path), rows)


def write_tickets():
    write("tickets.csv", [{"subject": text, "queue": ("sales", "support")[label]} for text, label in ROWS])


def write_reviews():
    write("reviews.csv", [{"review": text, "stars": ("bad", "good")[label]} for text, label in ROWS])


def texts(folder, documents=120):
    """A folder of three text files with blank lines between the documents."""
    Path(folder).mkdir()
    for k in range(3):
        chosen = ("\n".join(SENTENCES[(k + n) % 5 : (k + n) % 5 + 2]) for n in range(documents // 3))
        (Path(folder) / f"{k}.txt").write_text("\n\n".join(chosen), encoding="utf-8")


def write_tasks_files():
    write_toy_task("rte", Path("glue/RTE"))
    write_toy_task("boolq", Path("superglue/BoolQ"))
    write_toy_task("squad2", Path())
    Path("predictions.json").write_text(json.dumps({f"q{k}": "A man" for k in range(6)}))
    Path("null_odds.json").write_text(json.dumps({f"q{k}": k - 2.5 for k in range(6)}))
    write_tickets()
    write_reviews()
    write("new_tickets.csv", [{"subject": text} for text, _ in ROWS[:4]])
    write("reviews.jsonl", [{"text": text, "stars": 1 + 3 * label} for text, label in ROWS])
    write("reports.csv", [{"text": text * (1 + k % 3), "label": label} for k, (text, label) in enumerate(ROWS)])
    articles = [{"article": f"{text} {CONTEXT}", "summary": text} for text, _ in ROWS[:8]]
    write("news.csv", articles)
    write("new_articles.csv", [{"article": row["article"]} for row in articles[:2]])
    write("questions.jsonl", [{"passage": f"{text} {CONTEXT}", "question": f"Who? {text}"} for text, _ in ROWS[:8]])
    write_saved_model("runs/mt/model", V3, "masked_lm")


def write_tables_files():
    write_tickets()
    sentence = {"words": ["A", "man", "eats", "in", "Köln"], "tags": ["O", "B-PER", "O", "O", "B-LOC"]}
    write("data/train.jsonl", [sentence] * 10)
    write("data/dev.jsonl", [sentence] * 2)
    authors = [
        {"author": f"author {k % 5}", "text": f"{text} {k}", "label": label} for k, (text, label) in enumerate(ROWS)
    ]
    write("competition/train.csv", authors)
    write("competition/test.csv", [{key: row[key] for key in ("author", "text")} for row in authors[:4]])
    write_toy_task("ner", Path("conll2003"))
    # The number of the word, the word, the outer and the inner entities.
    words = "1\tKölner\tB-LOC\tB-LOCderiv", "2\tDom\tI-LOC\tO", "3\tist\tO\tO", "4\tschön\tO\tO"
    sentence = "\n".join(["#\thttps://example.org\t2009", *words, "", ""])
    Path("germeval").mkdir()
    for split, number in (("train", 10), ("dev", 4), ("test", 2)):
        Path(f"germeval/{split}.txt").write_text(sentence * number, encoding="utf-8")


def write_competition_files():
    essays = [
        {"essay_id": f"e{k}", "full_text": f"{text} {k}", "prompt_name": f"prompt {k % 6}", "score": 1 + k % 6 // 2}
        for k, (text, _) in enumerate(labelled_sentences(36))
    ]
    write("essays/train.csv", essays)
    write(
        "essays/test.csv", [{key: row[key] for key in ("essay_id", "full_text", "prompt_name")} for row in essays[:5]]
    )


def write_readme_files():
    write_reviews()
    write_toy_task("rte", Path("glue/RTE"))
    texts("texts")
    texts("law")
    write_unigram(Path())
    messages = [{"text": "The match ended two all."}, {"text": "They vote today."}]
    write("texts.jsonl", messages)
    write("texts.parquet", messages)
    write("answers.csv", [{"question": "Who eats?", "answer": answer} for answer in ("A man.", "A fox.")])
    Path("documents.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    for name in ("my-reranker", "my-reward-model"):
        write_saved_model(name, V3, "sequence_classification", labels=("LABEL_0",))
    write_saved_model("my-nli-model", V3, "sequence_classification", labels=("LABEL_0", "LABEL_1"))


def write_pretraining_files():
    for folder in ("texts", "law", "books"):
        texts(folder)
    write_unigram(Path())
    shutil.copy("texts/0.txt", "held_out.txt")
    Path("src/package").mkdir(parents=True)
    source = Path(__file__).read_text(encoding="utf-8")
    for k in range(4):
        Path(f"src/package/module{k}.py").write_text(f"NUMBER = {k}\n{source}", encoding="utf-8")
    Path("web").mkdir()
    # Documents as long as the rules of Gopher ask for, a short one, and two that are almost equal.
    words = sorted({word for word in TEXT.split() if word != "-"})
    documents = [" ".join(random.Random(k).sample(words, 60)) for k in range(60)]
    documents += [TEXT.partition(".")[0], f"{documents[0]} dog"]
    for k in range(24):
        with gzip.open(f"web/{k}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in documents[k::24])


def write_scaling_files():
    texts("texts")


def write_paper_files():
    texts("texts")
    texts("wikitext-103")
    write("test.jsonl", [{"text": text} for text in SENTENCES])
    write_toy_task("mnli", Path("glue/MNLI"))
    write_toy_task("rte", Path("glue/RTE"))
    write_toy_task("squad2", Path("squad2"))
    write_toy_task("race", Path("RACE"))
    write_toy_task("xnli", Path("XNLI"))
    translated = write_toy_task("xnli", Path("XNLI-translated"))
    english = (translated / "multinli.train.en.tsv").rename(translated / "multinli.train.english.tsv")
    shutil.copy(english, translated / "multinli.train.de.tsv")


# The longest first: workers share them evenly.
WRITERS = {
    "docs/tasks.md": write_tasks_files,
    "docs/pretraining.md": write_pretraining_files,
    "docs/paper.md": write_paper_files,
    "README.md": write_readme_files,
    "docs/competition.md": write_competition_files,
    "docs/tables.md": write_tables_files,
    "docs/scaling.md": write_scaling_files,
}
