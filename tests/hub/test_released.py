"""Published outputs of released models, checked if their weights are in the cache of the Hub."""

import jax
import numpy as np
import pytest

from deberta_jax.errors import InputError
from deberta_jax.hub.download import resolve
from deberta_jax.hub.pretrained import load_pretrained

IDS = np.asarray([[0, 31414, 232, 328, 740, 1140, 12695, 69, 46078, 1588, 2]])
MASK = np.asarray([[0] + [1] * 10])
# From the tests of transformers: output[:, 1:4, 1:4].
OUTPUTS = {
    "microsoft/deberta-v2-xlarge": [[0.2356, 0.1948, 0.0369], [-0.1063, 0.3586, -0.5152], [-0.6399, -0.0259, -0.2525]],
    "microsoft/deberta-base": [[-0.5986, -0.8055, -0.8462], [1.4484, -0.9348, -0.8059], [0.3123, 0.0032, -1.4131]],
}


@pytest.mark.released
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_released_model_computes_its_published_outputs(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    try:
        folder = resolve(name)
    except InputError as error:
        pytest.skip(f"the weights are not available: {error}")
    model = load_pretrained(folder, require_tokenizer=False)[0]
    output = jax.jit(lambda model: model(IDS, MASK).last_hidden_state)(model)
    np.testing.assert_allclose(output[:, 1:4, 1:4], [OUTPUTS[name]], atol=1e-4, rtol=1e-4)
