"""The training engine: state, step, loop, optimizer, checkpoints and records of a run. It names no objective."""
