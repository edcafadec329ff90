"""A transform of one's own."""

from diffpolicy.datasets import ReplayBuffer
from diffpolicy.datasets.transforms import EpisodeTransform


class Flip(EpisodeTransform):
    """The mirror image of every episode, left and right exchanged, beside the original."""

    adds = True

    def apply(self, buffer):
        """Return the episodes with the sign of every x changed."""
        flipped = {key: buffer[key] * [-1, 1] for key in ("position", "goal", "action")}
        return ReplayBuffer(flipped, buffer.episode_ends)

    undo = apply  # flipping twice changes nothing
