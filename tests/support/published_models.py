"""Toy models under the names of published ones, for examples that load them from a local mock hub."""

import dataclasses

from sentence_folders import write_sentence_folder
from toy_folders import READING, released, toy_model
from toy_tokenizers import write_unigram

from deberta_jax.config import OBJECTIVE_KEY
from deberta_jax.hub.pretrained import save_pretrained

# The head of each model, and its labels.
HEADS = {
    "mixedbread-ai/mxbai-rerank-base-v1": ("sequence_classification", ("LABEL_0",)),
    "OpenAssistant/reward-model-deberta-v3-base": ("sequence_classification", ("LABEL_0",)),
    "deepset/deberta-v3-base-squad2": ("question_answering", ("LABEL_0", "LABEL_1")),
    "tner/deberta-v3-large-ontonotes5": ("token_classification", ("O", "B-PERSON", "I-PERSON", "B-GPE")),
}
SENTENCE_ENCODER = "embedding-data/deberta-sentence-transformer"
POOLING = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}


def write_model(folder, head, **fields):
    """A folder with a model that reads the vocabulary of `write_unigram`, and its tokenizer; returns the folder."""
    folder.mkdir(parents=True)
    save_pretrained(folder, toy_model(dataclasses.replace(READING, **fields), head), write_unigram(folder))
    return folder


def published(root):
    """`owner/name` of published models, and a folder for each."""
    models = {name: write_model(root / name, head, labels=labels) for name, (head, labels) in HEADS.items()}
    models[SENTENCE_ENCODER] = write_sentence_folder(root / SENTENCE_ENCODER, POOLING)
    return released(root) | models


def write_language_model(folder):
    """The model folder of a pretraining run with the objective clm."""
    return write_model(folder, "masked_lm", extra={OBJECTIVE_KEY: "clm"})
