"""`python -m deberta_jax`: the command `deberta-jax`."""

import sys

from deberta_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
