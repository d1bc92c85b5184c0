"""A heat map as a picture."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from flawsmith.common.images import encode_png
from flawsmith.common.manifests import Manifest

Method = Literal["grad-cam", "segmentation"]


class HeatMap(Manifest):
    """See HeatMap in the API. peak: evidence, in logits, that 255 stands for; 0 where nothing speaks for a defect."""

    png: bytes
    method: Method
    peak: float


def draw_heat_map(evidence: np.ndarray, height: int, width: int, method: Method) -> HeatMap:
    """evidence: float32, h x w, logits; what speaks against a defect is left out (Grad-CAM's ReLU).

    The cells are enlarged to height x width, the classifier's input, without smoothing over more than they cover.
    """
    positive = np.maximum(evidence, 0.0)
    peak = float(positive.max())
    grey = np.zeros(evidence.shape, np.float32) if peak == 0.0 else positive / peak * 255.0
    enlarged = cv2.resize(grey, (width, height), interpolation=cv2.INTER_LINEAR)
    return HeatMap(png=encode_png(np.rint(enlarged).astype(np.uint8)), method=method, peak=peak)
