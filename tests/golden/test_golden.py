import dataclasses
import json
from pathlib import Path

import check
import jax
import numpy as np
import pytest

from deberta_jax.model.deberta import Deberta

HERE = Path(__file__).parent
SHARED = HERE.parents[2] / "shared" / "golden"
# Hugging Face counts the string "none" as a term of the scale here; Microsoft's rule is followed (hf_vs_ms 4).
SCALE_DEFECT = "a11_v1_posatt_none_string"


def runs(folder: Path) -> bool:
    """Whether a folder is a case of a model, or the tables of positions."""
    if not (folder / "case.json").is_file():
        return folder.name.startswith("e01")
    return check.known(json.loads((folder / "case.json").read_text()))


def folders(root: Path) -> list[str]:
    return sorted(folder.name for folder in root.iterdir() if folder.is_dir() and runs(folder)) if root.is_dir() else []


CARRIED = folders(HERE)
OTHERS = [name for name in folders(SHARED) if name not in CARRIED]


def differences_over(folder: Path) -> list[check.Difference]:
    differences = list(check.run_case(folder))
    assert differences
    return [difference for difference in differences if difference.over]


@pytest.mark.parametrize("name", [name for name in CARRIED if name != SCALE_DEFECT])
def test_the_original_is_matched(name):
    assert differences_over(HERE / name) == []


@pytest.mark.shared
@pytest.mark.parametrize("name", OTHERS)
def test_the_original_is_matched_in_every_case_there_is(name):
    assert differences_over(SHARED / name) == []


def last_hidden_state(case: check.Case) -> np.ndarray:
    model = check.loaded(case, lambda key: Deberta(case.config, key=key), "float32")
    run = jax.jit(lambda model: model(case.inputs["input_ids"], **check.masks(case), **check.extras(case)))
    return np.asarray(run(model).last_hidden_state)


def test_the_string_none_is_no_term_of_the_scale():
    case = check.read_case(HERE / SCALE_DEFECT)
    microsoft = np.load(case.folder / "outputs_ms.npz")["last_hidden_state"]
    np.testing.assert_allclose(last_hidden_state(case), microsoft, atol=check.BOUND_32)
    counted = dataclasses.replace(case, config=dataclasses.replace(case.config, pos_att_type=("c2p",)))
    ours = check.attended(case, "last_hidden_state", last_hidden_state(counted))
    reference = check.attended(case, "last_hidden_state", case.outputs64["last_hidden_state"])
    np.testing.assert_allclose(ours, reference, atol=check.BOUND_32)


@pytest.mark.parametrize("name", ["a01_v1", "b01_v2_conv_gelu", "b22_v3_holes"])
def test_padding_rows_follow_the_original(name):
    case = check.read_case(HERE / name)
    microsoft = np.load(case.folder / "outputs_ms.npz")["last_hidden_state"]
    np.testing.assert_allclose(last_hidden_state(case), microsoft, atol=check.BOUND_32)


def test_the_check_says_no_when_a_number_is_off(tmp_path, capsys):
    case = tmp_path / "case"
    case.mkdir()
    for file in (HERE / "b07_v3_p2c").iterdir():
        (case / file.name).write_bytes(file.read_bytes())
    outputs = dict(np.load(case / "outputs64.npz"))
    outputs["last_hidden_state"][0, 0, 0] += 1e-6
    np.savez(case / "outputs64.npz", **outputs)
    assert check.main([str(case)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines if " OVER " in line] == ["last_hidden_state"]
    assert check.main([str(tmp_path / "nothing")]) == 1
