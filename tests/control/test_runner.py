"""A control loop that does not wait: with a clock of its own, and chunks that come when the test says."""

import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest
import tiny
import tiny_policy

from diffpolicy import make_env
from diffpolicy.config import ExecutionConfig
from diffpolicy.control.guard import Guard, Limits
from diffpolicy.control.local import LocalPlanner
from diffpolicy.control.planning import Metadata, Plan, Planner
from diffpolicy.control.robots import EnvRobot
from diffpolicy.control.runner import RealTimeRunner
from diffpolicy.evaluation.contract import Contract, Place
from diffpolicy.evaluation.episode import Reset
from diffpolicy.evaluation.journal import Journal
from diffpolicy.policies import Agent
from diffpolicy.policies.motion import Motion

T_O, T_P, T_A, A = 2, 16, 4, 1


class Clock:
    """Time passes when somebody sleeps."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Later:
    """An executor whose results come after so many steps of the robot."""

    def __init__(self, delays):
        self.delays, self.waiting = list(delays), []

    def submit(self, function, ask):
        future = Future()
        self.waiting.append([self.delays.pop(0) if self.delays else 0, future, function, ask])
        return future

    def step(self):
        for one in list(self.waiting):
            if one[0] <= 0:
                self.waiting.remove(one)
                try:
                    one[1].set_result(one[2](one[3]))
                except Exception as error:
                    one[1].set_exception(error)
            one[0] -= 1


class Numbers(Planner):
    """Its actions say which chunk they are of and for which step they were meant."""

    def __init__(self):
        self.metadata = Metadata(T_O, T_P, T_A, A)
        self.asks, self.broken = [], set()

    def plan(self, ask):
        self.asks.append(ask)
        if len(self.asks) - 1 in self.broken:
            raise ConnectionError("nobody there")
        now = int(ask.obs[-1][0])
        steps = now + np.arange(T_P) - (T_O - 1)
        return Plan((100 * ask.key[1] + steps)[:, None].astype(np.float32), 10)


class Line:
    """Observes the number of the step."""

    def __init__(self, executor, clock, slow=()):
        self.executor, self.clock, self.slow, self.number, self.acted = executor, clock, dict(slow), 0, []

    def observe(self):
        self.executor.step()
        return np.array([float(self.number)])

    def act(self, action):
        self.clock.now += self.slow.get(self.number, 0.001)
        self.acted.append(float(action[0]))
        self.number += 1


def run(delays, steps=30, broken=(), slow=(), rate=10.0, guard=None, **how):
    clock, executor, planner = Clock(), Later(delays), Numbers()
    planner.broken = set(broken)
    robot = Line(executor, clock, slow)
    how = {"hold": lambda obs: np.array([-1.0]), **how}
    runner = RealTimeRunner(robot, planner, rate, guard, executor=executor, clock=clock, **how)
    return runner.run(steps), robot, planner


def test_every_action_is_the_one_that_was_meant_for_its_step():
    report, robot, planner = run([3] + [2] * 20)
    for step, value in enumerate(robot.acted):
        assert value == -1 if step < 4 else value % 100 == step, (step, value)
    assert report.holds == 4 and report.delays == [4] + [3] * (len(report.delays) - 1)
    assert report.borders[:3] == [4, 7, 11]
    asked = [int(ask.obs[-1][0]) for ask in planner.asks]
    assert asked == list(range(0, 28, T_A)), "every T_a steps; what step 28 asked for would have come later"
    assert np.allclose(np.diff(report.starts), 0.1)
    assert report.over_budget == 0 and not report.late


def test_a_corrector_is_told_how_old_each_action_is_and_may_fail():
    asked = []

    class Correcting(Numbers):
        def corrected(self, obs, action, step):
            asked.append((int(obs[0]), int(action[0]) % 100, step))
            if obs[0] == 9:
                raise ValueError("no number")
            return action + 1000

    clock, executor, planner = Clock(), Later([2] * 20), Correcting()
    robot = Line(executor, clock)
    runner = RealTimeRunner(robot, planner, 10.0, hold=lambda obs: np.array([-1.0]), executor=executor, clock=clock)
    report = runner.run(20)
    assert all(now == meant for now, meant, _ in asked) and len(asked) == 20 - report.holds
    steps = [step for _, _, step in asked]
    assert steps[:5] == [3, 4, 5, 6, 3], "each chunk comes three steps after it was asked for"
    assert [value >= 1000 for value in robot.acted[3:]] == [k != 9 for k in range(3, 20)]
    assert report.failures == {"ValueError: no number": 1}


def test_a_chunk_is_planned_with_the_largest_recent_delay_and_what_is_pending():
    report, robot, planner = run([0, 4, 1, 0, 0, 0])
    assert report.planned[0] == 0 and report.planned[2:5] == [5, 5, 5]
    for ask in planner.asks[1:]:
        now = int(ask.obs[-1][0])
        pending = ask.pending[:, 0] % 100
        assert pending.tolist() == list(range(now, now + len(pending)))
        assert ask.executed[0, 0] == robot.acted[now - 1]
        assert [float(one[0]) for one in ask.obs] == [max(now - 1, 0), now]
        assert ask.age >= T_A and ask.last is not None


def test_where_no_action_is_left_it_holds_and_counts_it():
    report, robot, _ = run([0, 20, 0])
    left = T_P - (T_O - 1) - 1  # of the first chunk, which came one step late
    held = [step for step, value in enumerate(robot.acted) if value == -1]
    assert held[0] == 0 and held[1] == 1 + left and report.holds == len(held) > 2
    assert report.late == 1, "the chunk that came after all of its actions' steps"
    assert robot.acted[-1] % 100 == 29


def test_what_fails_is_asked_again_while_the_robot_goes_on():
    report, robot, planner = run([0] * 30, broken={1, 2})
    assert report.failures == {"ConnectionError: nobody there": 2}
    assert report.holds == 1 and all(value % 100 == step for step, value in enumerate(robot.acted) if step)
    assert len(planner.asks) > 7


def test_the_watchdog_stops_the_robot_and_lets_it_go_on():
    guard = Guard(Limits(np.array([-1000.0]), np.array([1000.0])), watchdog=0.5)
    report, robot, _ = run([0, 9, 0], guard=guard)
    assert report.stops == 1
    held = [step for step, value in enumerate(robot.acted) if value == -1]
    assert held[0] == 0 and held[1] == 4 + 6, "half a second after the second chunk was asked for"
    assert robot.acted[-1] % 100 == 29
    steady, _, _ = run([0] * 30, guard=Guard(guard.limits, watchdog=0.25))
    assert steady.stops == 0, "chunks that come in time are none to wait for, however rarely they are asked for"


def test_a_new_run_is_guarded_from_where_the_robot_is():
    guard = Guard(Limits(np.array([-1000.0]), np.array([1000.0]), np.array([200.0])))
    for _ in range(2):
        _, robot, _ = run([0] * 10, steps=12, guard=guard)
        assert robot.acted[0] == -1
    assert not guard.interventions
    with pytest.raises(ValueError, match="a guard, and nothing says how the robot holds; give hold="):
        run([], guard=guard, hold=None)


def test_what_is_wrong_from_the_start_is_said_and_not_tried_again():
    class Wrong(Numbers):
        def plan(self, ask):
            raise ValueError("another policy's observation")

    clock, executor = Clock(), Later([0] * 9)
    runner = RealTimeRunner(
        Line(executor, clock), Wrong(), 10.0, hold=lambda obs: obs, executor=executor, clock=clock
    )
    with pytest.raises(ValueError, match="another policy's observation"):
        runner.run(10)


def test_observations_are_copied():
    clock, executor, planner = Clock(), Later([0] * 20), Numbers()

    class Reused(Line):
        buffer = np.zeros(1)

        def observe(self):
            self.buffer[0] = super().observe()[0]
            return self.buffer

    hold = {"hold": lambda obs: np.array([-1.0])}
    RealTimeRunner(Reused(executor, clock), planner, 10.0, executor=executor, clock=clock, **hold).run(20)
    for ask in planner.asks[1:]:
        assert float(ask.obs[0][0]) == float(ask.obs[1][0]) - 1


def test_a_slow_step_is_counted_and_not_made_up_for():
    report, _, _ = run([0] * 20, slow={5: 0.35})
    periods = np.diff(report.starts)
    assert report.over_budget == 1 and periods[5] == pytest.approx(0.35)
    np.testing.assert_allclose(np.delete(periods, 5), 0.1)


def test_without_anything_to_hold_by_it_says_so():
    with pytest.raises(ValueError, match="the first chunk is not there yet.*give hold="):
        run([5], hold=None)


@pytest.mark.parametrize("rate", [0, -1.0, float("nan")])
def test_rates_that_mean_nothing(rate):
    with pytest.raises(ValueError, match="expected control steps per second"):
        run([], rate=rate)


def test_a_local_policy_plans_as_an_agent_does():
    """With chunks that are there one step later, beside an agent with a delay of one step."""
    policy = tiny_policy.policy("flow", t_a=4, execution=ExecutionConfig(delay=1))
    policy.motion = Motion((3, 4))
    with pytest.raises(ValueError, match="execution.delay=1 of a policy that plans for a robot; leave it out"):
        LocalPlanner(policy)
    stream = np.random.default_rng(0).uniform(0, 512, (20, tiny_policy.D)).astype(np.float32)
    agent = Agent(policy)
    agent.reset([0], [7])
    expected = [agent.act(obs[None])[0] for obs in stream]
    clock, executor = Clock(), Later([0] * 20)

    class Stream(Line):
        def observe(self):
            super().observe()
            return stream[self.number]

        def act(self, action):
            self.number += 1

    undelayed = tiny_policy.policy("flow", t_a=4)
    undelayed.motion = policy.motion
    planner = LocalPlanner(undelayed)
    runner = RealTimeRunner(Stream(executor, clock), planner, 10.0, executor=executor, clock=clock)
    report = runner.run(20, seed=7)
    assert report.delays == [1] * 5 and report.holds == 1
    np.testing.assert_allclose(report.actions, expected, rtol=1e-4, atol=1e-2)
    assert planner.metadata.fields["obs"]["shape"] == [tiny_policy.D]


def test_an_environment_is_a_robot():
    """Its actions stop at its end, and what came of it is told."""
    place = Place(make_env(tiny.ENV_ID), Contract(limited=True), Journal())
    robot, clock, executor = EnvRobot(place, Reset(3)), Clock(), Later([0] * 20)

    class Right(Planner):
        metadata = Metadata(1, 8, 4, 2)

        def plan(self, ask):
            return Plan(np.tile(np.array([[1.0, 0.0]], np.float32), (8, 1)))

    observe = robot.observe
    robot.observe = lambda: executor.step() or observe()
    hold = {"hold": lambda obs: np.zeros(2), "executor": executor, "clock": clock}
    report = RealTimeRunner(robot, Right(), 10.0, **hold).run(30, over=lambda: robot.done)
    assert robot.done and robot.episode.success
    assert robot.episode.steps == len(report.actions) < 15
    robot.act(np.zeros(2, np.float32))
    row = robot.end().row()
    assert row["steps"] == len(report.actions), "nothing happens after the end"
    assert row["seed"] == 3 and row["success"] and row["place"] >= 0.9 - 1e-6


def test_a_real_clock_and_thread():
    class Robot:
        def __init__(self):
            self.number, self.acted, self.threads = 0, [], set()

        def observe(self):
            return np.array([float(self.number)])

        def act(self, action):
            self.threads.add(threading.get_ident())
            self.acted.append(float(action[0]))
            self.number += 1

    class Slow(Numbers):
        def plan(self, ask):
            self.threads.add(threading.get_ident())
            while robot.number < min(int(ask.obs[-1][0]) + 3, 60):  # three steps go by, however slow the machine is
                time.sleep(0.001)
            return super().plan(ask)

    robot, planner = Robot(), Slow()
    planner.threads = set()
    report = RealTimeRunner(robot, planner, 100.0, hold=lambda obs: np.array([-1.0])).run(60)
    assert robot.threads == {threading.get_ident()} and len(planner.threads - robot.threads) == 1
    assert robot.acted[:3] == [-1.0] * 3 and report.holds >= 3
    assert all(value in (-1, step) or value % 100 == step for step, value in enumerate(robot.acted))
    assert (np.array(report.starts) >= np.arange(60) / 100 - 1e-6).all(), "no step before its time"
    assert report.summary()["steps"] == 60 and report.summary()["delay"]["largest"] >= 3
