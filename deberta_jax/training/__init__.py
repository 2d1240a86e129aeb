"""Training: optimizer, objectives, state, step, checkpoint, recorder, and the loop that joins them."""
