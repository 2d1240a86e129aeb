import pytest
from toy_folders import CONFIGS, V3, toy_model

from deberta_jax.hub.pretrained import save_pretrained


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


@pytest.fixture(scope="session")
def v3_folder(tmp_path_factory):
    """The saved masked language model of `V3`; tests must not change it."""
    folder = tmp_path_factory.mktemp("v3")
    save_pretrained(folder, toy_model(V3))
    return folder


@pytest.fixture
def transformers():
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
