"""The benchmark page is what its result files say, and each figure says how it was measured."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILE = """
title = "Speed"
topic = "Speed on CPU"
question = "Is it fast?"
answer = "twice as fast"
date = "2026-11-24"
command = "python benchmarks/peers.py"
machine = "two cores"
versions = "jax 0.10.2"

[[part]]
table = '''
| model | s |
|---|---|
| small | 1.5 |
'''

[[part]]
date = "2026-11-26 to 2026-11-27"
text = "Later."
"""


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import page

    return page


def read(page, folder, text):
    (folder / "speed.toml").write_text(text)
    return page.read(folder / "speed.toml")


def test_the_page_is_written_from_the_results(page):
    assert page.PAGE.read_text(encoding="utf-8") == page.page(page.read_all()), "run python benchmarks/page.py"


def test_every_heading_is_one_result_and_links_lead_to_headings(page):
    text = page.PAGE.read_text(encoding="utf-8")
    headings = [page.anchor(line[3:]) for line in text.splitlines() if line.startswith("## ")]
    assert len(set(headings)) == len(headings) == len(page.read_all())
    assert re.findall(r"\]\(#([^)]*)\)", text) == headings
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        links = re.findall(r"benchmarks\.md#([\w-]+)", path.read_text(encoding="utf-8"))
        assert set(links) <= set(headings), path


def test_images_of_the_page_exist(page):
    images = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.PAGE.read_text(encoding="utf-8"))
    assert images and all((page.PAGE.parent / image).exists() for image in images)


def test_a_part_is_measured_like_its_file_or_says_how(page, tmp_path):
    section = page.page({"speed": read(page, tmp_path, FILE)}).partition("## Speed")[2]
    assert section.splitlines()[2:] == [
        "*Is it fast?* Twice as fast.",
        "",
        "> 2026-11-24 · `python benchmarks/peers.py` · two cores · jax 0.10.2",
        "",
        "| model | s |",
        "|---|---|",
        "| small | 1.5 |",
        "",
        "> 2026-11-26 to 2026-11-27 · `python benchmarks/peers.py` · two cores · jax 0.10.2",
        "",
        "Later.",
    ]


@pytest.mark.parametrize("name", ["title", "topic", "question", "answer", "date", "command", "machine", "versions"])
def test_a_missing_field_is_an_error(page, tmp_path, name):
    text = re.sub(rf'^{name} = "(?!2026-11-26).*"\n', "", FILE, count=1, flags=re.MULTILINE)
    with pytest.raises(ValueError, match=rf"speed\.toml: .*no {name}"):
        read(page, tmp_path, text)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("| small | 1.5 |", "| small |", "rows of the table have 1 to 2 cells"),
        ('text = "Later."', "", "part 2: neither text nor table"),
        ('"2026-11-24"', '"yesterday"', "date 'yesterday' is not YYYY-MM-DD"),
        ("peers.py", "missing.py", "benchmarks/missing.py does not exist"),
        ('"Speed on CPU"', '"Luck"', "topic 'Luck' is none of"),
        ("question", "qestion", "no question; unknown field qestion"),
    ],
)
def test_a_mistake_is_an_error(page, tmp_path, before, after, problem):
    with pytest.raises(ValueError, match=problem):
        read(page, tmp_path, FILE.replace(before, after))


def test_a_new_file_says_what_is_to_be_completed(page, tmp_path):
    with pytest.raises(ValueError, match="no title; no question; no answer; part 1: neither text nor table$"):
        read(page, tmp_path, page.new("python benchmarks/peers.py"))
