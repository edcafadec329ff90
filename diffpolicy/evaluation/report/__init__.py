"""What an evaluation leaves behind: plots, videos, a page, and with what it was made."""

from diffpolicy.evaluation.report.curves import draw_actions, draw_fan_curves
from diffpolicy.evaluation.report.next_steps import NextStep, next_steps
from diffpolicy.evaluation.report.page import Clip, Image, image_section, write_document, write_page
from diffpolicy.evaluation.report.plots import (
    can_draw_chunks,
    draw_chunks,
    draw_fan,
    draw_metric,
    draw_modes,
    draw_training,
)
from diffpolicy.evaluation.report.provenance import provenance
from diffpolicy.evaluation.report.video import write_video
from diffpolicy.evaluation.report.videos import write_videos

__all__ = [
    "Clip",
    "Image",
    "NextStep",
    "can_draw_chunks",
    "draw_actions",
    "draw_chunks",
    "draw_fan",
    "draw_fan_curves",
    "draw_metric",
    "draw_modes",
    "draw_training",
    "image_section",
    "next_steps",
    "provenance",
    "write_document",
    "write_page",
    "write_video",
    "write_videos",
]
