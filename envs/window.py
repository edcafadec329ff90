"""The window of render mode "human"."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray


class Window:
    """Shows images at a fixed rate.

    Args:
        title: what the window is called.
        size: width and height, px.
        fps: frames per second; `show` waits for the next frame's time.

    Raises:
        gymnasium.error.DependencyNotInstalled: pygame is missing.
    """

    def __init__(self, title: str, size: int, fps: int) -> None:
        try:
            self._pygame: Any = importlib.import_module("pygame")
        except ImportError as error:
            cure = 'render_mode="human" needs pygame: pip install "diffpolicy[human]"'
            raise gym.error.DependencyNotInstalled(cure) from error
        self._pygame.init()
        self._surface = self._pygame.display.set_mode((size, size))
        self._pygame.display.set_caption(title)
        self._clock = self._pygame.time.Clock()
        self._fps = fps

    def show(self, image: NDArray[np.uint8]) -> None:
        """Show an image, (size, size, 3) uint8 RGB."""
        self._pygame.event.pump()  # a window that answers no events counts as hung
        self._surface.blit(self._pygame.surfarray.make_surface(image.swapaxes(0, 1)), (0, 0))
        self._pygame.display.update()
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Close the window."""
        self._pygame.display.quit()
        self._pygame.quit()
