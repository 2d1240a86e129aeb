"""Options of a pretraining run: which are refused, and which define the run."""

import pytest

from deberta_jax.data.masking import Masking
from deberta_jax.data.text_options import TextOptions
from deberta_jax.errors import InputError
from deberta_jax.presets import PRESETS
from deberta_jax.pretraining.config import DataConfig, PretrainConfig, RtdConfig, generator_config
from deberta_jax.pretraining.recipes import Selection, recipe


@pytest.mark.parametrize("name", ["v3-xsmall", "v3-small", "v3-base", "v3-large"])
def test_a_generator_has_half_as_many_layers(name):
    assert generator_config(PRESETS[name]) == PRESETS[f"{name}-generator"]
    assert generator_config(PRESETS["tiny"]).num_hidden_layers == 2


def test_settings_contain_only_the_options_that_the_objective_uses():
    mlm, rtd = (recipe("tiny", Selection(objective)).settings() for objective in ("mlm", "rtd"))
    assert rtd.keys() - mlm.keys() == {"rtd", "generator"}
    assert not {"folder", "processes", "recipe"} & rtd.keys()


def test_settings_contain_the_text_options_that_determine_the_documents():
    def settings(**options):
        return PretrainConfig(data=DataConfig(files=("a",), text=TextOptions(**options))).settings()["data"]

    default = settings()
    assert settings(max_document_bytes=10) == default
    assert settings(document="line", text_field="content") == default | {"document": "line", "text_field": "content"}
    assert not {"text", "document"} & default.keys()
    with pytest.raises(InputError, match=r"data.document set without text files; set data.files too"):
        DataConfig(text=TextOptions(document="line"))


def test_the_limit_of_words_is_a_setting_where_it_changes_masks():
    def masking(objective="mlm", **options):
        config = PretrainConfig(objective=objective, data=DataConfig(masking=Masking(**options)))
        return config.settings()["data"]["masking"]

    assert masking()["max_word_tokens"] == 16
    assert masking("mt", max_word_tokens=4)["max_word_tokens"] == 4
    assert masking("rtd", mode="tail_biased")["max_word_tokens"] == 16  # held-out text is masked uniformly
    # Runs of earlier versions are equal to these, and have no such setting.
    for earlier in (masking(max_word_tokens=None), masking("clm"), masking(mode="tail_biased")):
        assert "max_word_tokens" not in earlier
    assert "max_word_tokens" not in masking("rtd", whole_words=False)


@pytest.mark.parametrize(("tokens", "rows"), [(8192, 8192), (8150, 8192), (448, 512), (450, 512), (8193, 8320)])
def test_the_embedding_table_fits_the_tokenizer_or_is_the_presets(tokens, rows):
    assert recipe("tiny").model_config(tokens).vocab_size == rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtd": RtdConfig(sharing="none")}, "rtd options are set, but the objective is mlm"),
        ({"generator": "somewhere"}, "generator is an option of objective rtd; for mlm use init-from"),
        ({"objective": "rtd", "generator": "fresh"}, "generator fresh needs init-from"),
        ({"objective": "clm", "data": DataConfig(masking=Masking(rate=0.3))}, "objective clm masks nothing; omit them"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        PretrainConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sharing": "es"}, "rtd.sharing es needs rtd.step joint"),
        ({"loss_weight": 0.0}, "rtd.loss_weight is 0.0; it must be positive"),
        ({"step": "joint", "discriminator_learning_rate": 1e-3}, "needs rtd.step decoupled"),
        ({"discriminator_learning_rate": -1.0}, "it must not be negative"),
    ],
)
def test_rtd_options_that_exclude_each_other_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        RtdConfig(**options)
