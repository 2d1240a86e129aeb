"""Pretraining text: sources, packing, masking, shards and batches."""
