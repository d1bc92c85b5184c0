"""Draws industrial surfaces, their defects and exact masks: our own data, with no download and no licence."""

from flawsmith.drawing.defects import DEFECTS, STAIN_COLORS, Defect, draw_defect, random_defect
from flawsmith.drawing.sample_product import draw_sample, write_sample_dataset
from flawsmith.drawing.scene import (
    DIRECTED,
    Drawing,
    caption,
    defect_prompts,
    direction_named,
    direction_word,
    draw,
    kinds_named,
)
from flawsmith.drawing.surfaces import COLORS, SURFACES, Surface, draw_surface, random_surface

__all__ = [
    "COLORS",
    "DEFECTS",
    "DIRECTED",
    "STAIN_COLORS",
    "SURFACES",
    "Defect",
    "Drawing",
    "Surface",
    "caption",
    "defect_prompts",
    "direction_named",
    "direction_word",
    "draw",
    "draw_defect",
    "draw_sample",
    "draw_surface",
    "kinds_named",
    "random_defect",
    "random_surface",
    "write_sample_dataset",
]
