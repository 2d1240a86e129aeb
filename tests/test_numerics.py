"""References to docs/numerics.md, and its form."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_reference_to_the_numerics_names_a_heading():
    headings = set(re.findall(r"^## (.+)$", (ROOT / "docs" / "numerics.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert len(headings) == 17
    references = []
    for path in [*ROOT.glob("deberta_jax/**/*.py"), *ROOT.glob("tests/**/*.py")]:
        # A reference may be broken over two lines of a comment or a docstring.
        text = re.sub(r"\n[ #]*", " ", path.read_text(encoding="utf-8"))
        references += [(path.name, name) for name in re.findall(r'docs/numerics\.md`?, "([^"]+)"', text)]
    assert len(references) > 10
    assert [reference for reference in references if reference[1] not in headings] == []
