"""The benchmark page: `python benchmarks/page.py` writes docs/benchmarks.md from the files in benchmarks/results.

A file has a title, a topic, a question, an answer, and how its figures were measured: `date`, `command`, `machine` and
`versions`. Its parts have a `text`, a `table` as Markdown, which most benchmarks print, or both; a part that was
measured in another way says so with the same names. `python benchmarks/page.py new COMMAND` prints a file for figures
that are measured now, to be completed.
"""

import datetime
import importlib.metadata
import os
import platform
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks.md"
# The order of the page.
TOPICS = (
    "Speed on CPU", "Memory", "Programs for TPU and GPU", "Speed on GPU", "Pretraining", "Fine-tuning", "Ablation",
    "Reliability",
)  # fmt: skip
_DATE = re.compile(r"\d{4}-\d\d-\d\d( to \d{4}-\d\d-\d\d)?")
_SCRIPT = re.compile(r"(?:benchmarks|\.ci)/[\w.-]+")
_PACKAGES = "jax", "flax"
_INTRODUCTION = """\
<!-- Written by benchmarks/page.py from benchmarks/results. -->

# Benchmarks

Every figure has its date, command, machine and versions. A ratio compares runs that alternate on the same machine. A
*bar* is the value that was required before the measurement. Programs for TPU and GPU were compiled on a CPU unless the
line below a heading names another machine.
"""


class Measurement(NamedTuple):
    """How figures were measured."""

    date: str
    command: str
    machine: str
    versions: str

    def __str__(self) -> str:
        return f"> {self.date} · `{self.command}` · {self.machine} · {self.versions}"


class Part(NamedTuple):
    """Text and a table, and how they were measured."""

    text: str
    table: str
    measurement: Measurement


class Result(NamedTuple):
    """The content of a file."""

    title: str
    topic: str
    question: str
    answer: str
    parts: list[Part]


def read(path: Path) -> Result:
    """The result in a file; raises ValueError with all that is missing or wrong."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    problems = [f"no {name}" for name in ("title", "topic", "question", "answer", "part") if not content.get(name)]
    if content.get("topic") and content["topic"] not in TOPICS:
        problems.append(f"topic {content['topic']!r} is none of {', '.join(TOPICS)}")
    parts = []
    for number, values in enumerate(content.get("part", ()), start=1):
        measurement = Measurement(*(str(values.get(name) or content.get(name, "")) for name in Measurement._fields))
        parts.append(Part(values.get("text", "").strip(), values.get("table", "").strip(), measurement))
        problems += [f"part {number}: {problem}" for problem in _problems(parts[-1])]
    unknown = content.keys() - {*Result._fields, *Measurement._fields, "part"}
    unknown |= {name for values in content.get("part", ()) for name in values} - {*Part._fields, *Measurement._fields}
    problems += [f"unknown field {name}" for name in sorted(unknown)]
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}")
    return Result(*(content[name] for name in Result._fields[:-1]), parts)


def _problems(part: Part) -> Iterator[str]:
    measurement = part.measurement
    yield from (f"no {name}" for name, value in measurement._asdict().items() if not value)
    if measurement.date and not _DATE.fullmatch(measurement.date):
        yield f"date {measurement.date!r} is not YYYY-MM-DD, or two of them with ' to ' between"
    for script in _SCRIPT.findall(measurement.command):
        if not (ROOT / script).exists():
            yield f"{script} does not exist"
    if not part.text and not part.table:
        yield "neither text nor table"
    widths = {len(row) for row in table_rows(part.table)}
    if len(widths) > 1:
        yield f"the rows of the table have {min(widths)} to {max(widths)} cells"


def table_rows(table: str) -> list[list[str]]:
    """The cells of a Markdown table; the second row is the line below the header."""
    lines = table.splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))] for line in lines]


def page(results: Mapping[str, Result]) -> str:
    """The text of the page; results are in the order of their topics, then of their names."""
    ordered = sorted(results.items(), key=lambda item: (TOPICS.index(item[1].topic), item[0]))
    sections = [_INTRODUCTION, _contents([result for _, result in ordered])]
    return "\n".join([*sections, *(_section(result) for _, result in ordered)])


def _contents(results: list[Result]) -> str:
    lines = ["| topic | question | result |", "|---|---|---|"]
    topic = ""
    for result in results:
        shown, topic = result.topic if result.topic != topic else "", result.topic
        lines.append(f"| {shown} | [{result.question}](#{anchor(result.title)}) | {result.answer} |")
    return "\n".join(lines) + "\n"


def anchor(title: str) -> str:
    """The anchor of a heading on GitHub and in the documentation."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _section(result: Result) -> str:
    blocks, previous = [f"## {result.title}", f"*{result.question}* {_sentence(result.answer)}"], None
    for part in result.parts:
        if part.measurement != previous:
            blocks.append(str(part.measurement))
        previous = part.measurement
        blocks += filter(None, (part.text, part.table))
    return "\n\n".join(blocks) + "\n"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def new(command: str) -> str:
    """A file for figures that the command measures on this machine with the installed packages."""
    info = Path("/proc/cpuinfo")
    cpu = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    name = cpu[1] if cpu else platform.machine()
    packages = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    fields = {
        "title": "",
        "topic": TOPICS[0],
        "question": "",
        "answer": "",
        "date": f"{datetime.date.today()}",
        "command": command,
        "machine": f"{os.cpu_count()} cores ({name}), load average {os.getloadavg()[0]:.0f}",
        "versions": ", ".join([f"Python {'.'.join(platform.python_version_tuple()[:2])}", *packages]),
    }
    lines = [f'{name} = "{value}"' for name, value in fields.items()]
    return "\n".join([*lines, "", "[[part]]", "text = '''", "", "'''", "table = '''", "", "'''"])


def read_all() -> dict[str, Result]:
    """The results by the name of their file."""
    return {path.stem: read(path) for path in sorted(RESULTS.glob("*.toml"))}


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["new"]:
        print(new(" ".join(arguments[1:])))
    else:
        PAGE.write_text(page(read_all()), encoding="utf-8")
        print(PAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
