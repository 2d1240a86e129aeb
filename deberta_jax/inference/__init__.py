"""Inference: texts in; filled masks, embeddings, labels, entities, answers and choices out."""
