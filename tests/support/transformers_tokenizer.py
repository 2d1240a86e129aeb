"""The ids of texts by the installed version of transformers: `python transformers_tokenizer.py FOLDER [SAVED]`.

Reads a JSON list of texts and pairs of texts; prints their ids as JSON, and saves the tokenizer to the folder SAVED.
"""

import json
import sys

from transformers import AutoTokenizer
from transformers.utils import logging


def main(folder: str, saved: str | None = None) -> None:
    logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = json.load(sys.stdin)
    json.dump([tokenizer(*([each] if isinstance(each, str) else each))["input_ids"] for each in inputs], sys.stdout)
    if saved:
        tokenizer.save_pretrained(saved)


if __name__ == "__main__":
    main(*sys.argv[1:])
