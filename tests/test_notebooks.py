"""The stored notebooks: badge, first cell, outputs and size. `.ci/run` executes them."""

import base64
import io
import json
import re
from pathlib import Path

import pytest
from matplotlib.image import imread

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BADGE = re.compile(
    r"\[!\[Open in Colab\]\(https://colab\.research\.google\.com/assets/colab-badge\.svg\)\]"
    r"\(https://colab\.research\.google\.com/github/([\w-]+/[\w-]+)/blob/main/(notebooks/\w+\.ipynb)\)"
)
MAX_BYTES = 400_000
# What a reader must not see: errors, warnings, paths of the machine, colors of a terminal and progress.
NOISE = r"Traceback|\w+Warning\b|WARNING|/(home|root|tmp|work|Users|content)/|\x1b\[|\d+ s left|it/s\]"


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def outputs(path: Path) -> list[dict]:
    return [output for cell in cells(path, "code") for output in cell["outputs"]]


def texts(output: dict) -> list[str]:
    """The text of a stream, and the text and the HTML of a result."""
    parts = [output.get("text", "")]
    parts += [value for name, value in output.get("data", {}).items() if name.startswith("text/")]
    return ["".join(part) for part in parts]


def test_the_badge_opens_the_notebook_in_the_repository_of_all(path):
    repository, name = BADGE.findall(source(cells(path, "markdown")[0]))[0]
    assert name == f"notebooks/{path.name}"
    assert repository == BADGE.findall(source(cells(NOTEBOOKS[0], "markdown")[0]))[0][0]


def test_the_first_code_cell_chooses_the_device_in_the_same_way(path):
    first = source(cells(path, "code")[0])
    assert first == source(cells(NOTEBOOKS[0], "code")[0])
    assert '["auto", "cpu", "gpu", "tpu"]' in first


def test_outputs_are_stored_in_one_run_from_top_to_bottom(path):
    counts = [cell["execution_count"] for cell in cells(path, "code")]
    assert counts == list(range(1, len(counts) + 1))
    assert outputs(path)


def test_outputs_have_no_errors_and_no_noise(path):
    assert not [output for output in outputs(path) if output["output_type"] == "error"]
    noise = [text for output in outputs(path) for text in texts(output) if re.search(NOISE, text)]
    assert not noise, noise


def test_figures_have_an_opaque_background(path):
    for image in (output["data"]["image/png"] for output in outputs(path) if "image/png" in output.get("data", {})):
        pixels = imread(io.BytesIO(base64.b64decode("".join(image))))
        assert pixels.ndim == 2 or pixels.shape[-1] == 3 or (pixels[..., 3] == 1).all()


def test_files_are_small(path):
    assert path.stat().st_size < MAX_BYTES


def test_links_to_files_of_the_repository_work(path):
    text = "\n".join(map(source, cells(path, "markdown")))
    links = [link for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) if "://" not in link]
    missing = [link for link in links if not (path.parent / link).exists()]
    assert not missing, missing
