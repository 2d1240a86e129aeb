"""Tables in every format that fine-tuning and predictions read."""

import csv
import json


def write_table(path, rows):
    """Write a table with the columns of its first row, in the format of its suffix; returns the path."""
    suffix = path.suffix[1:]
    if suffix in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter="," if suffix == "csv" else "\t")
            table.writeheader()
            table.writerows(rows)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\r\n" for row in rows))
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "xlsx":
        import openpyxl

        book = openpyxl.Workbook()
        for row in [list(rows[0]), *(list(row.values()) for row in rows)]:
            book.active.append(row)
        book.save(path)
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path
