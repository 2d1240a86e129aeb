"""The report on the rows of a file."""

import pytest

from deberta_jax.errors import InputError
from deberta_jax.tasks.examples import ReadReport


def test_the_report_counts_rows_by_reason_and_lists_the_first_errors():
    report = ReadReport("reviews.csv")
    for line in range(1, 301):
        if line % 20 == 0:
            report.skip("column 'label' is empty", line)
        else:
            report.use()
    report.skip("belongs to dev", 301, malformed=False)
    report.repaired("answer offset")
    assert str(report) == (
        "reviews.csv: 301 rows, 285 used, 16 skipped (column 'label' is empty: 15, belongs to dev: 1), "
        "repaired: answer offset: 1"
    )
    assert report.errors == [f"reviews.csv line {line}: column 'label' is empty" for line in range(20, 120, 20)]
    report.check()


def test_a_file_with_too_many_malformed_rows_is_refused_with_its_first_error():
    report = ReadReport("f")
    for number in range(20):
        report.skip("bad", number)
        report.use()
    with pytest.raises(InputError, match=r"f: 20 of 40 rows are malformed \(first error: f line 0: bad\); check that"):
        report.check()
    with pytest.raises(InputError, match="f: the file has no rows"):
        ReadReport("f").check()
