"""What the suites share: importing an extra, facts of a task, and cameras without a display."""

from __future__ import annotations

import abc
import contextlib
import importlib
import io
import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar, final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..checks import check_choice, require

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


def needed(module: str, extra: str) -> ModuleType:
    """Return an imported module of a suite; where there is no display, MuJoCo is told to draw without one.

    Args:
        module: its full name.
        extra: of this project, which installs it.

    Raises:
        ImportError: it is not installed; names the line that installs it.
    """
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in DISPLAYS):
        os.environ.setdefault("MUJOCO_GL", "egl")  # which mujoco reads when it is imported
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # where gymnasium-robotics prints news of its versions
            return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        given = f"this environment needs the package {package} ({error})"
        raise ImportError(f"{given}; pip install 'diffpolicy[{extra}]'") from error


def suite_facts(description: str, display_options: Sequence[str] = ()) -> dict[str, Any]:
    """Return the facts of a task for `metadata["task"]` that has no score beside success.

    Args:
        description: when an episode counts as a success.
        display_options: constructor arguments that change what is observed or shown, and nothing of what happens.
    """
    return {
        "success_key": "success",
        "success_description": description,
        "metrics": {
            "success": {"key": "success", "reducer": "max", "description": description},
            "return": {"key": "reward", "reducer": "sum", "description": "sum of the suite's own rewards"},
        },
        "display_options": list(display_options),
    }


def check_size(name: str, size: object) -> None:
    """Raise ValueError unless `size` is a whole number of pixels, at least 16."""
    whole = isinstance(size, int) and not isinstance(size, bool) and size >= 16
    require(whole, f"{name}={size!r}", "a whole number of pixels, at least 16")


def refuse_options(options: Mapping[str, Any] | None) -> None:
    """Raise ValueError if `reset` was given an option, of which a suite has none."""
    require(not options, f"options={options!r}", "none", "choose an episode by its seed")


class SuiteEnv(gym.Env[Any, NDArray[np.float32]], abc.ABC):
    """What the environments of suites share: `reset` comes first, and rendering. A task is a subclass.

    A subclass sets `_started` in `reset`.

    Args:
        render_mode: None or "rgb_array".
        render_size: side of a rendered image, px.

    Raises:
        ValueError: another mode or size.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode: str | None, render_size: int) -> None:
        if render_mode is not None:
            check_choice("render_mode", render_mode, self.metadata["render_modes"])
        check_size("render_size", render_size)
        self.render_mode, self._started = render_mode, False

    def render(self) -> NDArray[np.uint8] | None:
        """Return an image, (render_size, render_size, 3) uint8 RGB.

        Raises:
            RuntimeError: before the first `reset`.
        """
        if self.render_mode is None:
            gym.logger.warn('render() draws nothing: give render_mode="rgb_array" to gym.make()')
            return None
        self._require_started("render")
        return self._draw()

    @abc.abstractmethod
    def _draw(self) -> NDArray[np.uint8]:
        """Return the image of the present state."""

    def _require_started(self, call: str) -> None:
        require(self._started, f"{call}() before the first reset()", "reset() first", None, RuntimeError)


def goal_state(observation: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return an observation of a goal environment as one vector: observation, achieved goal, desired goal."""
    keys = ("observation", "achieved_goal", "desired_goal")
    return np.concatenate([np.asarray(observation[key], np.float64) for key in keys])


@final
class Cameras:
    """Draws a MuJoCo model from its cameras, without shadows, reflections and antialiasing.

    On a processor shadows alone take several times as long as everything else. The images of one camera depend on the
    model's state and nothing else.

    Args:
        model: `mujoco.MjModel`.
        data: its `mujoco.MjData`, read at every image.
        size: height and width of an image, px.
        turned: names of cameras whose images are turned by 180°, because the suite mounted them upside down.
    """

    def __init__(self, model: Any, data: Any, size: int, turned: Sequence[str] = ()) -> None:
        self._model, self._data, self._size, self._turned = model, data, size, tuple(turned)
        self._gl: Any = None

    def draw(self, camera: str | Any) -> NDArray[np.uint8]:
        """Return an image, (size, size, 3) uint8 RGB.

        Args:
            camera: name of one of the model's cameras, or a `mujoco.MjvCamera`.

        Raises:
            RuntimeError: there is no OpenGL.
        """
        if self._gl is None:
            self._open()
        mujoco, turned = self._mujoco, camera in self._turned if isinstance(camera, str) else False
        if isinstance(camera, str):
            name, camera = camera, mujoco.MjvCamera()
            camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, self._model.camera(name).id
        self._gl.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, self._data, self._options, None, camera, everything, self._scene)
        mujoco.mjr_render(self._rect, self._scene, self._context)
        image = np.empty((self._size, self._size, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, self._rect, self._context)  # from the bottom row up
        return np.ascontiguousarray(image[:, ::-1] if turned else image[::-1])

    def _open(self) -> None:
        """Make the context and the scene by mujoco's functions: its `Renderer` fails if imported before `needed`."""
        self._mujoco = mujoco = importlib.import_module("mujoco")
        quality, room, size = self._model.vis.quality, self._model.vis.global_, self._size
        quality.offsamples = 0
        room.offwidth, room.offheight = max(room.offwidth, size), max(room.offheight, size)
        backend = os.environ.get("MUJOCO_GL") or "glfw"
        try:
            self._gl = importlib.import_module(f"mujoco.{backend}").GLContext(size, size)
            self._gl.make_current()
            self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except Exception as error:  # every backend has its own
            self._gl = None
            cure = (
                "set MUJOCO_GL to egl, osmesa or glfw, whichever this machine has, before the first import of mujoco"
            )
            raise RuntimeError(f"MuJoCo cannot draw with MUJOCO_GL={backend!r} ({error}); {cure}") from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene, self._options = mujoco.MjvScene(self._model, 10_000), mujoco.MjvOption()
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = 0
        self._rect = mujoco.MjrRect(0, 0, size, size)
        # Left to the interpreter's exit, a context would be freed after the library that frees it.
        self._free = weakref.finalize(self, _freed, self._gl, self._context)

    def close(self) -> None:
        """Free the context; the next image makes another one."""
        if self._gl is not None:
            self._free()
            self._gl = None


def _freed(gl: Any, context: Any) -> None:
    gl.make_current()
    context.free()
    gl.free()


def check_cameras(given: Sequence[str], model: Any) -> tuple[str, ...]:
    """Return the names of cameras, all of which the model has.

    Raises:
        ValueError: an unknown name, with the close one; the same twice; none.
    """
    names = [model.camera(number).name for number in range(model.ncam)]
    cameras = (given,) if isinstance(given, str) else tuple(given)
    for camera in cameras:
        check_choice("camera", camera, names)
    require(cameras and len(set(cameras)) == len(cameras), f"cameras={list(cameras)}", "one or several, each once")
    return cameras
