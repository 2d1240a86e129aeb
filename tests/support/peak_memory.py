"""Print the peak memory of preparing so many megabytes of text: `peak_memory.py FOLDER MEGABYTES`."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from toy_text import ToyTokenizer

from deberta_jax.data.prepare import prepare
from deberta_jax.data.selection import Selection

if __name__ == "__main__":
    folder, megabytes = Path(sys.argv[1]), int(sys.argv[2])
    with (folder / "text.txt").open("w") as file:
        for number in range(megabytes * 50):
            file.write(f"Document {number} has some words. " * 600 + "\n\n")
    selection = Selection(deduplicate="exact")
    prepare([str(folder / "text.txt")], folder / "shards", ToyTokenizer(), length=4096, selection=selection)
    # Not ru_maxrss, which a process inherits from its parent.
    print(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
