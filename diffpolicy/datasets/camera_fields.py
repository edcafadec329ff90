"""What a policy sees of the cameras of a recording, and at which range of depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.digest import sampled_frames
from diffpolicy.datasets.frames import FrameSource
from diffpolicy.datasets.spec import Field
from diffpolicy.util.errors import located, require
from diffpolicy.util.names import check


def camera_fields(
    images: FrameSource, recorded: ReplayBuffer, ranges: Mapping[str, Sequence[float]], rate: float | None = None
) -> dict[str, Field]:
    """Return the fields of the cameras, those of depth with their range.

    Args:
        images: of the recording.
        recorded: the training episodes; its attributes "units" and "ranges" are read.
        ranges: depth camera -> (nearest, farthest), before what the recording says. Where neither says anything, it
            is 0 to the largest value in some frames of the training episodes.
        rate: frames per second.

    Raises:
        ValueError: a range of something else than a depth camera, or an impossible one.
    """
    depth = [name for name, dtype in images.dtypes.items() if dtype == np.uint16]
    for name in ranges:
        check("camera in observation.ranges", name, images.shapes)
        says = f"observation.ranges of {name!r}, whose images are {images.dtypes[name]}"
        require(name in depth, says, "a depth camera, uint16 of one channel")
    known = {**recorded.attrs.get("ranges", {}), **ranges}
    if missing := [name for name in depth if name not in known]:
        seen = images.read(sampled_frames(recorded, images))
        known |= {name: (0, max(1, int(seen[name].max()))) for name in missing}
    fields = {}
    for name, shape in images.shapes.items():
        with located(f"camera {name!r}"):
            deep = {"unit": recorded.attrs.get("units", {}).get(name), "range": known[name]} if name in depth else {}
            fields[name] = Field("image", shape, rate=rate, **deep)
    return fields
