"""Chunks that are taught to go on from actions which are decided: `policy.prefix`."""

import numpy as np
import pytest
import tiny_policy as tiny
import torch

from diffpolicy import load_policy
from diffpolicy.config import ExecutionConfig
from diffpolicy.generative.guidance import Inpaint, Prefix
from diffpolicy.generative.objectives import DenoisingObjective
from diffpolicy.generative.paths import LinearPath
from diffpolicy.generative.predictions import ModelField
from diffpolicy.generative.sampling import sample
from diffpolicy.generative.shapes import as_input
from diffpolicy.generative.solvers import make_solver
from diffpolicy.nets import FastUnet1D
from diffpolicy.nets.transformer import ConditionalTransformer
from diffpolicy.policies.history import prefix_of
from diffpolicy.registry import build

PATHS = {"linear": {"name": "linear"}, "ddpm": {"name": "ddpm", "steps": 50}}


def test_half_of_the_chunks_know_their_first_actions():
    known = prefix_of(torch.zeros(40_000, 16, 2), longest=4, past=1, generator=torch.Generator().manual_seed(0))
    told = known.sum(1)
    assert (known.long().cumsum(1)[:, -1:] == told[:, None]).all() and (known[:, 1:] <= known[:, :-1]).all()
    shares = torch.bincount(told, minlength=8) / len(told)
    np.testing.assert_allclose(shares[:8], [0.5, 0, 0.125, 0.125, 0.125, 0.125, 0, 0], atol=0.01)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", ["velocity", "noise", "data", "v"])
def test_the_loss_is_that_of_the_actions_that_are_not_known(path, prediction):
    objective = DenoisingObjective(build("path", PATHS[path]), prediction)
    data, seen = torch.randn(6, 8, 2), []

    def net(x, t, cond):
        seen.append((x, t))
        return 0 * x

    none = torch.zeros(6, 8, dtype=torch.bool)
    draw = lambda: torch.Generator().manual_seed(1)  # noqa: E731
    torch.testing.assert_close(
        objective.prefixed(net, {"data": data}, none, draw()), objective(net, {"data": data}, draw())
    )
    known = torch.arange(8) < torch.tensor([0, 1, 2, 3, 5, 7])[:, None]
    loss = objective.prefixed(net, {"data": data}, known, draw())
    x, t = seen[-1]
    assert loss.isfinite().all()
    assert torch.equal(x[known], data[known]) and (t[known] == 1).all() and (t[~known] < 1).all()
    every = objective.prefixed(net, {"data": data}, none, draw())
    torch.testing.assert_close(loss[0], every[0])
    plain = seen[1][0]  # the same noise at the same time
    torch.testing.assert_close(x[~known], plain[~known])


def test_its_gradient_is_finite_where_a_known_actions_target_is_not():
    objective = DenoisingObjective(build("path", PATHS["ddpm"]), "velocity")
    net = FastUnet1D(2, widths=(8,), time_features=8)
    known = torch.arange(8) < torch.tensor([4, 0])[:, None]
    objective.prefixed(net, {"data": torch.randn(2, 8, 2)}, known, torch.Generator().manual_seed(0)).mean().backward()
    assert all(one.grad.isfinite().all() for one in net.parameters() if one.grad is not None)


@pytest.mark.parametrize("kind", [FastUnet1D, ConditionalTransformer])
def test_what_follows_is_decided_by_what_is_known(kind):
    """Chunks that are 1 or -1 throughout: without a prefix both come, after one its own."""
    torch.manual_seed(0)
    sizes = {"widths": (16, 32)} if kind is FastUnet1D else {"width": 32, "layers": 1, "features": 64}
    net = kind(1, horizon=8, time_features=16, **sizes)
    objective, generator = DenoisingObjective(LinearPath(), "velocity"), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(300):
        data = torch.randint(2, (64, 1, 1)).float().mul(2).sub(1).expand(-1, 8, 1) + 0.05 * torch.randn(64, 8, 1)
        known = prefix_of(data, 3, 1, generator)
        optimizer.zero_grad()
        objective.prefixed(net, {"data": data}, known, generator).mean().backward()
        optimizer.step()
    net.eval()
    field, x = ModelField(net, LinearPath(), "velocity"), torch.randn(200, 8, 1, generator=generator)
    held = (torch.arange(8) < 3).expand(200, 8)
    modes = torch.where(torch.arange(200) % 2 == 0, 1.0, -1.0)[:, None, None].expand(-1, 8, 1)

    def ends(field):
        flow = make_solver("euler").bind(field, LinearPath())
        return sample(flow, x, torch.linspace(0, 1, 11, dtype=torch.float64))

    free = ends(field)[:, -1, 0]
    assert 0.25 < (free > 0).float().mean() < 0.75 and (free.abs() > 0.5).float().mean() > 0.9
    taught, plain = (ends(wrap) for wrap in (Prefix(field, modes, held), Inpaint(field, modes, held[..., None])))
    assert torch.equal(taught[held], modes[held])
    agree = ((taught[:, 3:] * modes[:, 3:]) > 0.5).float().mean()
    assert agree > 0.97 and agree > ((plain[:, 3:] * modes[:, 3:]) > 0.5).float().mean()


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m", "ddim"])
@pytest.mark.parametrize("method", ["flow", "ddpm"])
def test_a_policy_goes_on_from_what_is_pending(tmp_path, method, solver):
    run = tiny.config(method, policy=None)
    run.policy = tiny.PolicyConfig(tiny.T_O, tiny.T_P, 4, prefix=6)
    path = tiny.save(tmp_path / "run", run)
    policy = load_policy(path, execution=ExecutionConfig(inpaint=3), solver=solver, freeze=True)
    seen = []
    forward = policy.model.net.forward
    policy.model.net.forward = lambda x, t, *rest: seen.append((x, t)) or forward(x, t, *rest)
    episodes = tiny.Episodes(policy)
    first = episodes.next(tiny.observations(1))
    assert seen[0][1].ndim == 1, "nothing is known in the beginning"
    second = episodes.next(tiny.observations(1, seed=1))
    t = seen[-1][1]
    assert t.shape == (1, tiny.T_P) and (t[0, :4] == 1).all() and (t[0, 4:] < 1).all()
    np.testing.assert_allclose(second.trajectory[0, 1:4], first.trajectory[0, 5:8], atol=1e-3)


def test_training_teaches_it(tmp_path):
    run = tiny.config("flow")
    run.policy.prefix = 6
    model = tiny.model(run).train()
    seen = []
    forward = model.net.forward
    model.net.forward = lambda x, t, *rest: seen.append(t) or forward(x, t, *rest)
    batch = {name: values[:32] for name, values in tiny.windows().items()}
    loss = model.loss(batch, torch.Generator().manual_seed(0))
    assert loss.shape == (32,) and loss.isfinite().all() and 4 < (seen[0][:, 0] == 1).sum() < 28
    assert as_input(seen[0], batch["action"]).dtype == torch.float32


@pytest.mark.parametrize(
    ("method", "policy", "net", "says"),
    [
        ("flow", {"prefix": -1}, {}, "policy.prefix=-1; expected 0 to 14"),
        ("flow", {"prefix": 15}, {}, "policy.prefix=15; expected 0 to 14, which leave an action to be learned"),
        (
            "mean_flow",
            {"prefix": 3},
            {},
            "policy.prefix=3 of method 'mean_flow'; expected flow matching or diffusion",
        ),
        ("regression", {"prefix": 3}, {}, "policy.prefix=3 of method 'regression'"),
    ],
)
def test_what_cannot_be_taught_is_refused(method, policy, net, says):
    run = tiny.config(method)
    for name, value in policy.items():
        setattr(run.policy, name, value)
    with pytest.raises(ValueError, match=says):
        tiny.model(run)


def test_more_than_was_taught_is_refused(tmp_path):
    run = tiny.config("flow")
    run.policy.prefix = 3
    path = tiny.save(tmp_path / "run", run)
    with pytest.raises(ValueError, match=r"execution.inpaint=4 of a policy that was taught to go on from at most 3"):
        load_policy(path, execution=ExecutionConfig(inpaint=4))


def test_a_network_or_a_dropout_that_cannot_is_refused():
    run = tiny.config({**tiny.METHODS["flow"], "condition_dropout": 0.1})
    run.policy.prefix = 3
    with pytest.raises(ValueError, match=r"prefix=3 with method.condition_dropout=0.1; expected one of the two"):
        tiny.model(run)


@pytest.mark.parametrize("around", ["corrected", "best_of", "residual"])
def test_what_is_built_around_it_knows_it_too(around):
    run = tiny.config({"name": around, "base": tiny.METHODS["flow"], "actions": 4})
    run.policy.prefix = 3
    assert tiny.model(run).base.spec.prefix == 3


def test_compiled_it_gives_the_same_numbers(tmp_path):
    run = tiny.config("flow")
    run.policy.prefix = 6
    path = tiny.save(tmp_path / "run", run)
    plain, fast = (load_policy(path, execution=ExecutionConfig(inpaint=3), compile=on) for on in (False, True))
    assert sorted(fast.model.net._frozen._compiled) == [2, 3]
    episodes = [tiny.Episodes(one) for one in (plain, fast)]
    for seed in range(3):
        obs = tiny.observations(1, seed=seed)
        one, other = (each.next(obs).actions for each in episodes)
        np.testing.assert_allclose(one, other, atol=0.1)
