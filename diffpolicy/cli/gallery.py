"""Draw the notes' gallery: a figure for every idea, with its formula and the function that does it.

    diffpolicy gallery
    diffpolicy gallery only=[schedules,same_marginals] out=GALLERY
    diffpolicy gallery missing=true

One command makes all of it: it trains some twenty small networks, a generator of digits among them, which takes some
minutes on two processor cores. The digits need MNIST, which is downloaded if it is missing (12 MB).
"""

from __future__ import annotations

from diffpolicy.config.commands import GalleryConfig

SCHEMA, GROUPS, POSITIONAL = GalleryConfig, (), ()


def run(config: GalleryConfig) -> None:
    from diffpolicy.gallery import draw_gallery

    print(draw_gallery(config))
