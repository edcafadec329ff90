"""Images drawn from states."""

from __future__ import annotations

from concurrent.futures import CancelledError

import numpy as np
import pytest

from diffpolicy.datasets.drawn_frames import DrawnFrames


def draw(states):
    """A picture of 2 × 3 px whose color is the state."""
    return np.broadcast_to(states.astype(np.uint8)[:, None, None, :], (len(states), 2, 3, 3)).copy()


def test_frames_are_drawn_of_their_states():
    states = np.arange(600).reshape(200, 3) % 251
    with DrawnFrames("toy", "camera", draw, states, np.array([120, 200])) as frames:
        assert frames.shapes == {"camera": (2, 3, 3)} and frames.dtypes == {"camera": np.uint8}
        assert frames.episode_ends.tolist() == [120, 200] and frames.unit == 1 and frames.frame_bytes == 18
        wanted = np.array([0, 3, 4, *range(70, 199)])
        np.testing.assert_array_equal(frames.read(wanted)["camera"], draw(states[wanted]))
        assert frames.read(wanted[:0])["camera"].shape == (0, 2, 3, 3)


def test_drawing_can_be_cancelled_between_pieces():
    asked = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 1

    frames = DrawnFrames("toy", "camera", draw, np.zeros((200, 3)), np.array([200]))
    with pytest.raises(CancelledError):
        frames.read(np.arange(200), stop)
    assert len(asked) == 2


def test_what_is_drawn_has_to_be_images():
    with pytest.raises(
        ValueError, match=r"toy: a drawing of shape \(1, 3\) and float64; expected \(1, H, W, C\) and uint8"
    ):
        DrawnFrames("toy", "camera", lambda states: states, np.zeros((4, 3)), np.array([4]))
