"""The documents in a column of parquet and Arrow files, with pyarrow (extra `prep`)."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from types import ModuleType
from typing import Any

from deberta_jax.data.text_options import TextOptions
from deberta_jax.errors import InputError, list_names

# Rows that are converted to Python strings at a time.
_ROWS = 64


def read_parquet(path: str, options: TextOptions) -> Iterator[str]:
    """The strings of a column of a parquet file, without empty ones; raises InputError for other content."""

    def batches(pyarrow: ModuleType, stack: ExitStack) -> Iterator[Any]:
        from pyarrow import parquet

        file = stack.enter_context(parquet.ParquetFile(path))
        check_column(path, file.schema_arrow.names, options.text_field)
        return file.iter_batches(batch_size=_ROWS, columns=[options.text_field])

    return _documents(path, "parquet", options, batches)


def read_arrow(path: str, options: TextOptions) -> Iterator[str]:
    """The same for an Arrow file, or an Arrow stream, which Hugging Face `datasets` writes."""

    def batches(pyarrow: ModuleType, stack: ExitStack) -> Iterator[Any]:
        source = stack.enter_context(pyarrow.memory_map(path))
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        reader = stack.enter_context((pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(source))
        check_column(path, reader.schema.names, options.text_field)
        return (reader.get_batch(index) for index in range(reader.num_record_batches)) if is_file else iter(reader)

    return _documents(path, "arrow", options, batches)


def check_column(path: str, names: list[str], field: str) -> None:
    """Raise InputError if a file does not have exactly one column of this name."""
    if names.count(field) != 1:
        problem = "no column" if field not in names else "several columns named"
        raise InputError(
            f'{path}: {problem} "{field}" (columns: {list_names(names)}); name the one that contains the text with '
            "text-field"
        )


def _documents(
    path: str, kind: str, options: TextOptions, batches: Callable[[ModuleType, ExitStack], Iterator[Any]]
) -> Generator[str, None, None]:
    try:
        import pyarrow
    except ImportError:
        raise InputError(f"{path}: {kind} files require pyarrow; pip install 'deberta-jax[prep]'") from None
    row = 0
    try:
        with ExitStack() as stack:
            for batch in batches(pyarrow, stack):
                column = batch.column(batch.schema.get_field_index(options.text_field))
                for start in range(0, len(column), _ROWS):
                    for document in column.slice(start, _ROWS).to_pylist():
                        row += 1
                        text = _checked(path, row, column.type, document, options)
                        if text:
                            yield text
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as {kind} ({str(error).splitlines()[0]})") from None


def _checked(path: str, row: int, kind: Any, document: object, options: TextOptions) -> str:
    """The text without white space at its ends; "" for a missing one."""
    if document is None:
        return ""
    if not isinstance(document, str):
        raise InputError(f'{path}: column "{options.text_field}" contains {kind}; convert it to strings')
    limit = options.max_document_bytes
    if len(document) > limit or (4 * len(document) > limit and len(document.encode()) > limit):
        raise InputError(
            f"{path} row {row}: a text of more than {limit:,} bytes; remove it, or increase max-document-bytes"
        )
    return document.strip()
