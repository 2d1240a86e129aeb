"""How a row of a user's own table becomes an example, one parser per kind."""

from collections.abc import Sequence
from typing import Any

from deberta_jax.tasks.custom import Columns, RowParser, UnusableRow
from deberta_jax.tasks.examples import ChoiceExample, SpanExample, TextExample, WordsExample
from deberta_jax.tasks.task import Task


def parse_single_label(id: str, row: dict[str, Any], columns: Columns, is_test: bool) -> TextExample: ...
def parse_regression(id: str, row: dict[str, Any], columns: Columns, is_test: bool) -> TextExample: ...
def parse_multi_label(id: str, row: dict[str, Any], columns: Columns, is_test: bool) -> TextExample: ...
def parse_token(id: str, row: dict[str, Any], columns: Columns, is_test: bool) -> WordsExample: ...
def parse_extractive_qa(id: str, row: dict[str, Any], columns: Columns, is_test: bool) -> SpanExample: ...
def parse_multiple_choice(id: str, row: dict[str, Any], columns: Columns, is_test: bool) -> ChoiceExample: ...


# One value per kind, for the kind's file: SINGLE_LABEL, REGRESSION, MULTI_LABEL, TOKEN, EXTRACTIVE_QA, MULTIPLE_CHOICE.
SINGLE_LABEL: RowParser
REGRESSION: RowParser
MULTI_LABEL: RowParser
TOKEN: RowParser
EXTRACTIVE_QA: RowParser
MULTIPLE_CHOICE: RowParser
