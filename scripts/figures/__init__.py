"""The figures of the gallery, in the order of the notes."""

from diffpolicy.scripts.figures import processes
from diffpolicy.scripts.figures.style import Exhibit

EXHIBITS: tuple[Exhibit, ...] = (*processes.EXHIBITS,)
