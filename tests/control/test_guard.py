"""No action beyond its limits passes, and none that is no number."""

import numpy as np
import pytest

from diffpolicy.control.guard import Guard, Limits

LIMITS = Limits(np.array([-1.0, 0.0]), np.array([1.0, 10.0]), np.array([0.5, 2.0]), np.array([0.3, 1.0]))


def test_limits_are_the_recordings_ranges_widened():
    episodes = [
        np.array([[0.0, 5.0], [1.0, 5.0], [3.0, 5.0]]),
        np.array([[-1.0, 4.0], [-1.0, 4.0]]),
        np.zeros((1, 2)),
    ]
    found = Limits.of(episodes, margin=0.1)
    np.testing.assert_allclose(found.low, [-1.4, -0.5])
    np.testing.assert_allclose(found.high, [3.4, 5.5])
    np.testing.assert_allclose(found.speed, [2.2, 0.0])
    np.testing.assert_allclose(found.bend, [1.1, 0.0])
    again = Limits.from_plain(found.to_plain())
    assert all(np.array_equal(vars(again)[name], value) for name, value in vars(found).items())
    alone = Limits.of([np.zeros((1, 2))])
    assert alone.speed is None and alone.bend is None


def test_whatever_comes_what_passes_is_within_all_limits():
    draw = np.random.default_rng(0)
    guard, before = Guard(LIMITS), None
    guard.reset(np.array([0.0, 5.0]))
    last = np.array([0.0, 5.0])
    for k in range(2000):
        action = [
            draw.normal(0, 3, 2),
            np.array([np.nan, 1.0]),
            np.array([np.inf, -np.inf]),
            draw.normal(0, 3, 3),
            "stop",
            None,
            [[1.0, 2.0]],
        ][0 if k % 3 else draw.integers(7)]
        passed = guard(action)
        assert passed.dtype == np.float32 and passed.shape == (2,) and np.isfinite(passed).all()
        assert (passed >= LIMITS.low - 1e-6).all() and (passed <= LIMITS.high + 1e-6).all()
        change = passed - last
        assert (np.abs(change) <= LIMITS.speed + 1e-5).all()
        if before is not None:  # it may stop at once, and gathers speed step by step
            faster = (np.abs(change) > np.abs(before)) & (change * before >= 0)
            assert (np.abs(change - before) <= LIMITS.bend + 1e-5)[faster].all()
        last, before = passed.astype(np.float64), change
    assert set(guard.interventions) == {"value", "speed", "bend", "shape", "not finite"}


def test_what_is_within_passes_unchanged():
    guard = Guard(Limits(np.array([-1.0]), np.array([1.0]), np.array([0.5])))
    for value in (0.1, 0.3, -0.1):
        assert guard([value]) == np.float32(value)
    assert not guard.interventions
    assert guard([1.5]) == np.float32(0.4) and guard.interventions == {"value": 1, "speed": 1}


def test_a_constant_command_is_reached_without_going_beyond_it():
    guard, way = Guard(Limits(np.array([-100.0]), np.array([100.0]), np.array([5.0]), np.array([1.0]))), []
    guard.reset(np.array([0.0]))
    guard([0.0])
    for _ in range(12):
        way.append(float(guard([10.0])[0]))
    assert way == sorted(way) and way[:4] == [1.0, 3.0, 6.0, 10.0] and set(way[4:]) == {10.0}


def test_the_first_action_has_to_be_one():
    guard = Guard(LIMITS)
    with pytest.raises(ValueError, match="the first action is .*; expected 2 finite numbers"):
        guard([np.nan, 0.0])
    guard.reset(np.array([0.5, 5.0]))
    np.testing.assert_allclose(guard([np.nan, 0.0]), [0.5, 5.0])


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: Limits([0.0], [1.0, 2.0]), "high=.*expected 1 finite numbers"),
        (lambda: Limits([2.0], [1.0]), "expected low <= high"),
        (lambda: Limits([0.0], [np.nan]), "finite"),
        (lambda: Limits([0.0], [1.0], [-1.0]), r"speed=\[-1.0\]; expected numbers >= 0"),
        (lambda: Guard(LIMITS, watchdog=0), "watchdog=0; expected seconds above 0"),
    ],
)
def test_limits_that_mean_nothing(made, says):
    with pytest.raises(ValueError, match=says):
        made()


def test_it_starts_from_nothing_where_the_robot_is_not_known():
    guard = Guard(Limits([-1, -1], [1, 1], [0.5, 0.5]))
    guard.reset(np.array([np.nan, 0.0]))
    assert guard(np.array([0.9, 0.9])).tolist() == pytest.approx([0.9, 0.9])
