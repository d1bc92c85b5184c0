"""Ways to make images, by name: one module each, and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from flawsmith.generation.diffusion import LatentDiffusionModel
from flawsmith.generation.drawing_request import DrawingRequest, MaskedImages
from flawsmith.generation.signal_leak import SignalLeak
from flawsmith.generation.strategies.inpaint import inpaint
from flawsmith.generation.strategies.reconstruct import reconstruct
from flawsmith.generation.strategies.text_to_image import text_to_image

Strategy = Callable[[LatentDiffusionModel, DrawingRequest, SignalLeak | None, MaskedImages | None], np.ndarray]

STRATEGIES: Mapping[str, Strategy] = {
    "text_to_image": text_to_image,
    "inpaint": inpaint,
    "reconstruct": reconstruct,
}
