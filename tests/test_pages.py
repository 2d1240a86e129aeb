"""The pages of docs/ for newcomers: each block runs as written, with a local mock hub and toy models in released forms."""

import contextlib
import dataclasses
import re
from pathlib import Path
from unittest import mock

import jax
import pytest
from documents import ROOT, blocks, broken_links, commands, read_page, run_block
from mock_hub import serving
from toy_folders import SIZES, released, write_hosted_folder
from toy_tokenizers import TEXT, write_byte_pair

import deberta_jax as dj
from deberta_jax.cli.main import main
from deberta_jax.config import DebertaConfig

# The demo at a size that trains in seconds.
DEMO = ["--data.files", "text.txt", "--steps", "2", "--batch-size", "4", "--data.length", "32", "--vocabulary", "300", "--data.evaluate-batches", "1"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    folders = released(root)
    v1 = DebertaConfig(model_type="deberta", vocab_size=420, **SIZES, max_position_embeddings=128)
    write_hosted_folder(root / "v1", v1, "masked_lm")
    write_byte_pair(root / "v1")
    return folders | {"microsoft/deberta-base": root / "v1", "microsoft/deberta-v3-small": root / "v3"}


def test_first_steps(models, tmp_path, monkeypatch, capsys):
    import time
    with serving(models) as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")
        names = {}
        Path("text.txt").write_text("\n\n".join(TEXT for _ in range(40)))
        for block in blocks(read_page("docs/first_steps.md")):
            t = time.perf_counter()
            if block.comment == "demo in small":
                for words in commands(block.text):
                    with jax.numpy_dtype_promotion("standard"):
                        assert main([*words, *DEMO]) == 0
            else:
                run_block(block, names, "x")
            with capsys.disabled():
                print(block.text.splitlines()[0], time.perf_counter() - t)
