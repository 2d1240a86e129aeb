"""Tokenizers: text to token ids and back, for the vocabularies of DeBERTa v1, v2 and v3."""
