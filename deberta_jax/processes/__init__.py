"""Several processes as one run: they start together, agree, and end together."""
