"""States from the description of a model to its manifest."""

import pytest

from fleet.errors import RefusedError
from fleet.service.publication import read_described
from tests.small_models import recurrent


def described(folder, states):
    (folder / "sums.onnx").write_bytes(recurrent())
    (folder / "sums.toml").write_text(f'family = "sums"\nstates = {states}\n')
    return read_described(folder / "sums.onnx")


def test_the_states_of_a_recurrent_model_stand_in_its_description(tmp_path):
    assert described(tmp_path, '{ h_in = "h_out" }').description.states == {"h_in": "h_out"}


@pytest.mark.parametrize("states", ['["h_in"]', "{ h_in = 1 }", '{ h_in = "" }'])
def test_states_that_are_no_names_are_refused_with_the_file(tmp_path, states):
    with pytest.raises(RefusedError, match=r"sums.toml does not describe a model: .*states"):
        described(tmp_path, states)
