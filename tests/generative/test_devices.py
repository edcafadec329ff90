"""Sampling where the samples lie on another device than the processor: what is read of it, and when."""

import pytest
import torch

from diffpolicy.generative.predictions import PREDICTIONS
from diffpolicy.generative.process import GenerativeProcess
from diffpolicy.generative.shapes import as_input, expand, where
from diffpolicy.generative.solvers import SOLVERS
from diffpolicy.registry import build

PATHS = {"linear": {"name": "linear"}, "ddpm": {"name": "ddpm", "steps": 100}}
META = "meta"  # its tensors have no numbers: whoever reads one fails


def net(x, t, cond):
    return x * t[:, None, None]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - {"ddpm_learned"}))
def test_one_sample_is_drawn_without_reading_a_number_of_it(path, solver):
    for prediction in PREDICTIONS:
        process = GenerativeProcess(path=build("path", PATHS[path]), prediction=prediction, solver=solver, steps=4)
        x = torch.zeros(1, 4, 2, device=META)
        if solver == "dopri5":  # whose steps depend on what was found
            with pytest.raises(NotImplementedError, match="meta"):
                process.draw(process.field(net), x, None, None)
        else:
            drawn, _ = process.draw(process.field(net), x, None, None)
            assert drawn.device.type == META and drawn.shape == x.shape


def test_a_time_on_the_processor_meets_samples_elsewhere():
    x, t = torch.zeros(1, 4, 2, device=META), torch.tensor([0.3], dtype=torch.float64)
    assert expand(t, x).shape == () and expand(t, x).dtype == torch.float32
    assert as_input(t, x).device.type == META and as_input(t, x).shape == (1,)
    several = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    assert expand(several, x).shape == (1, 4, 1) and expand(several, x).device.type == META
    assert as_input(several, x).shape == (1, 4)


def test_a_choice_by_a_number_equals_one_by_a_tensor():
    yes, no, mask = torch.ones(3), torch.zeros(3), torch.tensor([True, False, True])
    assert where(mask, yes, no).tolist() == [1, 0, 1] and where(mask, yes, 7).tolist() == [1, 7, 1]
    for chosen in (True, False):
        elsewhere = where(torch.tensor(chosen), yes.to(META), 0)
        assert elsewhere.shape == yes.shape and elsewhere.device.type == META
