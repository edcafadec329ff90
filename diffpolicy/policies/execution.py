"""What execution settings mean, and which mean nothing or do not fit a policy; see `chunking`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor

from diffpolicy.config import ExecutionConfig, PolicyConfig
from diffpolicy.util.errors import require
from diffpolicy.util.names import check
from diffpolicy.util.seeds import generator

NOISES = ("random", "episode", "zero")
SCHEDULES = ("exponential", "linear", "ones", "zeros")


def longest_delay(delay: int | Sequence[float]) -> int:
    """Return the longest delay that may occur, in control steps."""
    return delay if isinstance(delay, int) else max(i for i, weight in enumerate(delay) if weight > 0)


def delay_of(delay: int | Sequence[float], *key: int) -> int:
    """Return the delay of a chunk, drawn by its key where there are weights."""
    if isinstance(delay, int):
        return delay
    weights = torch.tensor(delay, dtype=torch.float64)
    return int(torch.multinomial(weights, 1, generator=generator("delay", *key)))


def check_execution(execution: ExecutionConfig) -> None:
    """Raise ValueError for settings that mean nothing to any policy."""
    check("noise", execution.noise, NOISES)
    check_temperature("temperature", execution.temperature)
    both = execution.noise == "zero" and execution.temperature is not None
    require(not both, f"temperature={execution.temperature} of noise=zero", cure="take one of the two")
    ensemble, warm, d = execution.ensemble, execution.warm_start, execution.inpaint
    if isinstance(ensemble, Sequence) and not isinstance(ensemble, str):
        usable = ensemble and all(is_number(w) and w >= 0 for w in ensemble) and ensemble[0] > 0
        given = f"ensemble weights {list(ensemble)}"
        require(usable, given, "numbers >= 0, newest chunk first, and the newest one's above 0")
        total = math.fsum(ensemble)
        require(abs(total - 1) <= 1e-6, f"{given} sum to {total:g}", "1")
    else:
        fits = ensemble is None or is_number(ensemble)
        require(fits, f"ensemble={ensemble!r}", "a number, a list of weights or None")
    fits = warm is None or (is_number(warm) and 0 < warm < 1)
    require(fits, f"warm_start={warm!r}", "None or a time between 0 (noise) and 1 (data), both excluded")
    fits = d is None or (type(d) is int and d >= 0)
    require(fits, f"inpaint={d!r}", "None or a number of control steps >= 0")
    mappings = isinstance(execution.costs, Sequence) and all(isinstance(one, Mapping) for one in execution.costs)
    cure = "set policy.costs to make_costs([...], policy.action_dim) for costs of your own"
    require(mappings, f"costs={execution.costs!r}", "a list of mappings, each with a name", cure)
    averaged = ensemble is not None and any(one.get("hard") for one in execution.costs)
    require(not averaged, "hard costs and an ensemble, which averages chunks afterwards", cure="take one of the two")
    _check_times(execution)


def _check_times(execution: ExecutionConfig) -> None:
    if execution.guide is not None:
        check("guide", execution.guide, SCHEDULES)
        require(execution.inpaint is None, "guide and inpaint together", cure="take one of the two")
    usual = ExecutionConfig()
    for name in ("guide_bound", "guide_jacobian"):
        lone = execution.guide is None and vars(execution)[name] != vars(usual)[name]
        require(not lone, f"{name}={vars(execution)[name]} without a guide", cure="name guide too")
    bound, count, delay, noise = (
        vars(execution)[name] for name in ("guide_bound", "candidates", "delay", "action_noise")
    )
    looks = looking_back(execution)
    given = f"roll_forward, which plans from later on, and {' and '.join(looks)}, which look at the last chunk"
    require(not (execution.roll_forward and looks), given, cure="take one of the two")
    require(is_number(bound) and bound > 0, f"guide_bound={bound!r}", "a number above 0")
    require(type(count) is int and count >= 1, f"candidates={count!r}", "a number of chunks from 1 on")
    asks = execution.ask_above
    fits = asks is None or (is_number(asks) and asks > 0)
    require(fits, f"ask_above={asks!r}", "a spread above 0, in normalized units, or None")
    after = execution.ask_after
    require(type(after) is int and after >= 1, f"ask_after={after!r}", "a number of chunks from 1 on")
    require(
        asks is not None or after == 1,
        f"ask_after={after} without ask_above",
        cure="take ask_above=0.01 and candidates=8",
    )
    given = f"ask_above={asks} with candidates={count}"
    require(asks is None or count > 1, given, "several that can be apart", "take candidates=8")
    given = f"weaker={execution.weaker} with candidates={count}"
    require(execution.weaker is None or count > 1, given, "several to choose among", "take candidates=16")
    require(is_number(noise) and noise >= 0, f"action_noise={noise!r}", "a standard deviation >= 0, in action units")
    if isinstance(delay, Sequence) and not isinstance(delay, str):
        usable = all(is_number(weight) and weight >= 0 for weight in delay) and any(delay)
        require(usable, f"delay={list(delay)}", "weights >= 0 of the delays 0, 1, 2, …, not all of them 0")
    else:
        require(type(delay) is int and delay >= 0, f"delay={delay!r}", "a number of control steps >= 0, or weights")


def looking_back(execution: ExecutionConfig) -> list[str]:
    """Return the names of the settings by which a chunk depends on those before it."""
    names = ("ensemble", "warm_start", "inpaint", "guide")
    used = [name for name in names if vars(execution)[name] is not None]
    return [*used, "candidates"] if execution.candidates != 1 else used


def check_chains(execution: ExecutionConfig, chains: bool) -> None:
    """Raise ValueError for settings that look at earlier chunks, where actions are told from one to the next."""
    uses = looking_back(execution)
    given = f"execution.{' and execution.'.join(uses)} with delta actions, which no earlier chunk can give"
    require(not uses or not chains, given, cure="set them to null")


def check_temperature(name: str, temperature: object) -> None:
    """Raise ValueError unless a temperature is None or a number above 0."""
    fits = temperature is None or (is_number(temperature) and temperature > 0)
    require(fits, f"{name}={temperature!r}", "a number above 0", 'take execution.noise="zero" for none')


def check_supported(execution: ExecutionConfig, supported: frozenset[str]) -> None:
    execution, default = replace(execution, costs=list(execution.costs)), asdict(ExecutionConfig())
    changed = {name: value for name, value in asdict(execution).items() if value != default[name]}
    able = {*supported, "ensemble"}  # which needs nothing of the model
    able |= {"delay", "roll_forward", "action_noise"}
    able |= {"temperature", "candidates", "weaker", "ask_above", "ask_after"} if "noise" in able else set()
    able |= {"guide_bound", "guide_jacobian"} if "guide" in able else set()
    refused = [f"{name}={value}" for name, value in changed.items() if name not in able]
    given = f"{', '.join(refused)} is not supported by the policy's method"
    require(not refused, given, f"settings of {', '.join(sorted(able))}")


def check_fit(execution: ExecutionConfig, horizons: PolicyConfig, overlapping: int) -> None:
    t_o, t_p, t_a = horizons.obs_horizon, horizons.horizon, horizons.action_horizon
    where = f"with T_o={t_o}, T_p={t_p}, T_a={t_a}"
    ensemble, d = execution.ensemble, execution.inpaint
    given = f"ensemble={ensemble} averages nothing, since chunks do not overlap {where}"
    require(ensemble is None or overlapping > 1, given, cure=f"take T_a <= T_p - T_o = {t_p - t_o}")
    count = len(ensemble) if isinstance(ensemble, Sequence) else 0
    require(count <= overlapping, f"{count} ensemble weights, where {overlapping} chunks overlap {where}", "no more")
    reach = t_p - t_o + 1 - t_a
    given = f"inpaint={d} reaches beyond the last chunk {where}"
    require(d is None or d <= reach, given, f"at most T_p - T_o + 1 - T_a = {reach}")
    longest = longest_delay(execution.delay)
    given = f"delay={execution.delay} of chunks with T_o - 1 + T_a = {t_o - 1 + t_a} of T_p={t_p} actions"
    require(longest <= reach, given, f"at most T_p - T_o + 1 - T_a = {reach} steps")
    given = "inpaint=0 holds the T_o - 1 actions of the past, and T_o=1 has none"
    require(d != 0 or t_o > 1, given, cure="take inpaint=1 or more")


def is_number(value: object) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def prefix_weights(schedule: str, pending: int, reach: int, steps: int) -> Tensor:
    """Return the weights of the soft mask of real-time chunking (Black et al. 2025, equation 5), (steps,).

    They are 1 for the pending steps i < d, 0 from `reach` on, and between them, with c = (reach - i)/(reach - d + 1),
    c·(e^c - 1)/(e - 1) for "exponential", c for "linear", 1 for "ones" and 0 for "zeros".

    Args:
        schedule: one of `SCHEDULES`.
        pending: d, steps whose actions are decided.
        reach: steps for which the last chunk has actions.
        steps: of the whole chunk from now on.
    """
    check("guide", schedule, SCHEDULES)
    i = torch.arange(steps, dtype=torch.float32)
    c = ((reach - i) / (reach - pending + 1)).clamp(0, 1)
    between = {
        "exponential": c * torch.expm1(c) / math.expm1(1),
        "linear": c,
        "ones": torch.ones_like(c),
        "zeros": torch.zeros_like(c),
    }[schedule]
    return torch.where(i < pending, 1.0, torch.where(i < reach, between, 0.0))
