"""The doctor of recordings: what one of any format holds, what is wrong with it, and the setting that mends it."""

from diffpolicy.datasets.inspection.finding import Finding
from diffpolicy.datasets.inspection.inspect import Inspection, inspect_dataset
from diffpolicy.datasets.inspection.page import draw_sheet, require_new, write_page
from diffpolicy.datasets.inspection.text import list_sources

__all__ = ["Finding", "Inspection", "draw_sheet", "inspect_dataset", "list_sources", "require_new", "write_page"]
