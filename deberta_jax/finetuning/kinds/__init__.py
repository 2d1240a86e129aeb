"""The kinds of tasks: to add one, write a file and add its value to the table."""

from deberta_jax.finetuning.kinds.entity_ranking import ENTITY_RANKING
from deberta_jax.finetuning.kinds.extractive_qa import EXTRACTIVE_QA
from deberta_jax.finetuning.kinds.kind import Kind
from deberta_jax.finetuning.kinds.multi_label import MULTI_LABEL
from deberta_jax.finetuning.kinds.multiple_choice import MULTIPLE_CHOICE
from deberta_jax.finetuning.kinds.ordinal import ORDINAL
from deberta_jax.finetuning.kinds.regression import REGRESSION
from deberta_jax.finetuning.kinds.seq2seq import SEQ2SEQ
from deberta_jax.finetuning.kinds.single_label import SINGLE_LABEL
from deberta_jax.finetuning.kinds.token import TOKEN

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *(SINGLE_LABEL, MULTI_LABEL, REGRESSION, ORDINAL, TOKEN),
        *(EXTRACTIVE_QA, MULTIPLE_CHOICE, ENTITY_RANKING, SEQ2SEQ),
    )
}
