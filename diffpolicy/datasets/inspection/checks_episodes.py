"""Checks of episodes: damages, lengths, copies of each other, idle ends, repeated frames, timestamps, success."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from diffpolicy.config import PolicyConfig
from diffpolicy.datasets.inspection.finding import (
    BREAKS,
    HURTS,
    NOTE,
    Finding,
    convert,
    down_sampled,
    listed,
    plural,
    without,
)
from diffpolicy.datasets.inspection.measure import Measured, Measurements
from diffpolicy.datasets.inspection.numbers import Place
from diffpolicy.datasets.window_index import frames_needed

_OUTLYING = 4.0
"""An episode is unusually long or short at so many times the median, or a fraction of that: people vary by 2."""

_IDLE = 0.02
"""Fraction of idle frames at heads and tails worth a line; a second of rest in a minute stays below."""

_IDLE_HURTS = 0.10
"""The fraction from which a policy learns to stand still where demonstrations start."""

_REPEATED = 0.25
"""Fraction of frames that equal the one before from which sensors are slower than the recording."""

_SHORT_RUN = 3.0
"""Repeats that come by so many at a time at most are a slow sensor's; longer ones are pauses."""

_NEAR = 1e-3
"""Fraction of the range by which nearly equal episodes differ at most; two demonstrations differ by far more."""

_RATE = 0.05
"""Relative difference between the stated rate and the timestamps' that clocks do not have."""

_COMPARED = 20_000  # episodes up to which near copies are looked for


def damaged(m: Measurements) -> Iterator[Finding]:
    """Find episodes that cannot be read; conversion leaves these out."""
    total = len(m.damaged) + len(m.episodes)
    for episode, says in m.damaged:
        cure = "converting leaves it out" if m.episodes else None
        severity = HURTS if m.episodes else BREAKS
        yield Finding(severity, "damaged", says, cure, Place(episode.number, 0), 1 / total)
    if not total:
        yield Finding(BREAKS, "empty", "there is no episode", "record some", weight=1)


def said(m: Measurements) -> Iterator[Finding]:
    """Hand on what the format's reader said about damages and repairs."""
    for sentence in dict.fromkeys(m.said):
        yield Finding(NOTE, "said", sentence)


def failures(m: Measurements) -> Iterator[Finding]:
    """Find episodes that are marked as failed."""
    failed = [one.episode.number for one in m.episodes if one.episode.success is False]
    if not failed:
        return
    if len(failed) == len(m.episodes):
        yield Finding(NOTE, "failures", "no episode is marked as a success", weight=1)
        return
    says = f"{len(failed)} of {plural(len(m.episodes), 'episode')} are marked as failed: {listed(failed)}"
    cure = convert("episodes=success")
    yield Finding(HURTS, "failures", says, cure, Place(failed[0], 0), len(failed) / len(m.episodes))


def tasks(m: Measurements) -> Iterator[Finding]:
    """Find several tasks in one recording, of which a policy has to be told, or trained on one."""
    found = Counter(one.episode.task for one in m.episodes if one.episode.task is not None)
    if len(found) > 1:
        (most, count), *_ = found.most_common(1)
        says = f"there are {len(found)} tasks, which observation.texts=[task] tells a policy; one alone would be "
        says += f"{most!r}, {plural(count, 'episode')}"
        numbers = [one.episode.number for one in m.episodes if one.episode.task != most]
        yield Finding(NOTE, "tasks", says, without(m, numbers), weight=1 - count / len(m.episodes))


def lengths(m: Measurements) -> Iterator[Finding]:
    """Find episodes too short to train on, and unusually short or long ones."""
    sizes = PolicyConfig()
    needed = frames_needed(sizes.horizon, sizes.obs_horizon, sizes.action_horizon)
    short = [one for one in m.episodes if one.length < needed]
    if short:
        says = f"{plural(len(short), 'episode')} shorter than {needed} frames, too short for a window of the default"
        says += f" horizons: {listed([one.episode.number for one in short])}"
        place = Place(short[0].episode.number, 0)
        yield Finding(HURTS, "short", says, "dataset.short=skip", place, len(short) / len(m.episodes))
    if len(m.episodes) < 5:  # a median of fewer says nothing
        return
    median = float(np.median(m.lengths))
    odd = [one for one in m.episodes if not median / _OUTLYING <= one.length <= median * _OUTLYING]
    odd = sorted((one for one in odd if one not in short), key=lambda one: -abs(np.log(one.length / median)))
    if odd:
        which = listed([f"{one.episode.number} ({one.length})" for one in odd])
        says = f"{plural(len(odd), 'episode')} of unusual length, where the median is {median:g} frames: {which}"
        cure = without(m, [one.episode.number for one in odd])
        yield Finding(NOTE, "length", says, cure, Place(odd[0].episode.number, 0), len(odd) / len(m.episodes))


def still(m: Measurements) -> Iterator[Finding]:
    """Find episodes in which no number changes."""
    found = [one.episode.number for one in m.episodes if one.still and one.length > 1]
    if found and len(found) < len(m.episodes):
        says = f"nothing moves in {plural(len(found), 'episode')}: {listed(found)}"
        yield Finding(HURTS, "still", says, without(m, found), Place(found[0], 0), len(found) / len(m.episodes))


def idle(m: Measurements) -> Iterator[Finding]:
    """Find standing still at heads and tails of episodes."""
    count = sum(sum(m.idle(one)) for one in m.episodes)
    if not m.frames or count < _IDLE * m.frames:
        return
    worst = max(m.episodes, key=lambda one: sum(m.idle(one)))
    seconds = f" ({count / m.fps:.3g} s)" if m.fps else ""
    says = (
        f"{plural(count, 'frame')}{seconds}, {count / m.frames:.0%} of all, stand still at heads and tails; most in "
        f"episode {worst.episode.number}: {worst.head} at its head, {worst.tail} at its tail"
    )
    place = Place(worst.episode.number, 0 if worst.head else worst.length - worst.tail)
    severity = HURTS if count >= _IDLE_HURTS * m.frames else NOTE
    yield Finding(severity, "idle", says, convert("trim=idle"), place, count / m.frames)


def repeats(m: Measurements) -> Iterator[Finding]:
    """Find frames that are recorded several times, as when sensors are slower than the recording."""
    count, runs = sum(one.repeats for one in m.episodes), sum(one.runs for one in m.episodes)
    inside = sum(max(one.length - one.head - one.tail - 1, 0) for one in m.episodes)
    if not inside or count < _REPEATED * inside or count > _SHORT_RUN * runs:
        return
    worst = max(m.episodes, key=lambda one: one.repeats)
    says = f"{count / inside:.0%} of the frames equal the frame before in everything, most in episode "
    says += f"{worst.episode.number}: the sensors are slower than the recording"
    place = Place(worst.episode.number, worst.head)
    yield Finding(HURTS, "repeats", says, down_sampled(m, count / inside), place, count / inside)


def times(m: Measurements) -> Iterator[Finding]:
    """Find gaps, standstills and another rate in the timestamps."""
    late = [gap for one in m.episodes for gap in one.late]
    if late:
        place, steps = max(late, key=lambda gap: gap[1])
        gaps = f"{plural(len(late), 'gap')} in the timestamps"
        says = f"frames are missing: {gaps}, the longest of {steps:.3g} steps before {place}"
        episodes = sorted({at.episode for at, _ in late})
        yield Finding(HURTS, "dropped", says, without(m, episodes), place, len(late) / m.frames)
    stuck = [place for one in m.episodes for place in one.stuck]
    if stuck:
        says = f"{plural(len(stuck), 'timestamp')} not later than the one before, first at {stuck[0]}"
        episodes = sorted({at.episode for at in stuck})
        yield Finding(HURTS, "repeated_time", says, without(m, episodes), stuck[0], len(stuck) / m.frames)
    if m.fps is None:
        usual = f" ({m.usual_fps})" if m.usual_fps else ""
        says = f"it does not say how many frames a second it has{usual}"
        yield Finding(NOTE, "no_rate", says, convert("fps=N"))
    if m.clock and m.fps:
        ratio = min((m.clock * m.fps / unit for unit in (1.0, 1e3, 1e6, 1e9)), key=lambda r: abs(np.log(r)))
        if abs(ratio - 1) > _RATE:
            says = f"the recording says {m.fps:g} frames per second, its timestamps say {m.fps / ratio:.4g}"
            yield Finding(HURTS, "rate", says, convert(f"fps={round(m.fps / ratio, 3):g}"), weight=1)


def duplicates(m: Measurements) -> Iterator[Finding]:
    """Find episodes that are the same as others, or nearly."""
    groups: dict[str, list[Measured]] = {}
    for one in m.episodes:
        groups.setdefault(one.digest, []).append(one)
    exact = [group for group in groups.values() if len(group) > 1 and not group[0].still]
    yield from _copies(m, [(group[0], one) for group in exact for one in group[1:]], "the same as")
    single = [group[0] for group in groups.values()]
    yield from _copies(m, _near(m, single), "nearly the same as")


def _copies(m: Measurements, pairs: list[tuple[Measured, Measured]], words: str) -> Iterator[Finding]:
    if pairs:
        which = listed([f"{b.episode.number} is {words} {a.episode.number}" for a, b in pairs], 3)
        copied = sorted({b.episode.number for _, b in pairs})
        says = f"{plural(len(copied), 'episode')} recorded twice, so that held-out ones are trained on: {which}"
        kind = "duplicate" if words.startswith("the") else "near_duplicate"
        yield Finding(HURTS, kind, says, without(m, copied), Place(copied[0], 0), len(copied) / len(m.episodes))


def _near(m: Measurements, episodes: list[Measured]) -> list[tuple[Measured, Measured]]:
    """Pairs whose actions and states agree at eight frames, up to `_NEAR` of each number's range."""
    episodes = [one for one in episodes if not one.still]
    if not 2 <= len(episodes) <= _COMPARED or not episodes[0].print.size:
        return []
    prints = np.stack([one.print for one in episodes]).astype(np.float64)
    spread = np.ptp(prints, axis=(0, 1))
    if not (moving := spread > 0).any():
        return []
    scaled = (prints[..., moving] / spread[moving]).reshape(len(prints), -1)
    # Near ones are near in the mean, too: only neighbors in its order need comparing.
    means = scaled.mean(1)
    order, found = np.argsort(means, kind="stable"), []
    for at, i in enumerate(order):
        for j in order[at + 1 :]:
            if means[j] - means[i] > _NEAR:
                break
            a, b = sorted((i, j))
            alike = abs(episodes[a].length - episodes[b].length) <= 2
            if alike and np.abs(scaled[a] - scaled[b]).max() <= _NEAR:
                found.append((episodes[a], episodes[b]))
    return sorted(found, key=lambda pair: pair[1].episode.number)
