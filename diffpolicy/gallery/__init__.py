"""The notes as a gallery: a figure for every idea, with its formula and the function that does it."""

from diffpolicy.gallery.draw import draw_gallery
from diffpolicy.gallery.exhibits import EXHIBITS

__all__ = ["EXHIBITS", "draw_gallery"]
