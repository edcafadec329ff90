import pytest
import torch

from diffpolicy.nets import MLP
from diffpolicy.util.condition import Condition


def test_shapes_with_and_without_a_condition():
    x, t = torch.randn(5, 2), torch.rand(5)
    assert MLP(dim=2)(x, t).shape == (5, 2)
    assert MLP(dim=2, out_dim=3)(x, t).shape == (5, 3)
    assert MLP(dim=2, cond_dim=4, out_dim=1)(x, t, Condition(torch.randn(5, 4))).shape == (5, 1)
    with pytest.raises(ValueError, match="out_dim=0"):
        MLP(dim=2, out_dim=0)


def test_at_first_the_coordinates_weigh_as_much_as_the_time_however_many_features_it_has():
    torch.manual_seed(0)
    for features in (8, 64, 512):
        net = MLP(dim=2, width=2000, time_features=features)
        x, t = torch.randn(200, 2), torch.rand(200)
        first, rest = net.layers[0], torch.zeros(200, features)
        of_x = first(torch.cat([x, rest], dim=1)).var()
        of_t = first(torch.cat([0 * x, net.time(t)], dim=1)).square().mean()
        assert 3 < of_x.item() < 5 and 0.6 < of_t.item() < 1.6
