"""Print the peak memory before and after reading a file, and why it is rejected: `peak_memory_line.py FILE`."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from deberta_jax.data.sources import documents
from deberta_jax.errors import InputError


def peak() -> str:
    """The peak in kB; not ru_maxrss, which a process inherits from its parent."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return match[1] if match else ""


if __name__ == "__main__":
    before = peak()
    try:
        list(documents([sys.argv[1]]))
    except InputError as error:
        print(before, peak(), error)
