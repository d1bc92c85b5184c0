"""A heat map as a picture."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from flawsmith.common.images import encode_png
from flawsmith.common.manifests import Manifest

Method = Literal["grad-cam", "segmentation"]

# Those of a batch's 64 images fit an answer of 4 MiB, which is what gRPC's clients take unless told otherwise.
MAX_BYTES = 60 * 2**10


class HeatMap(Manifest):
    """See HeatMap in the API. peak: evidence, in logits, that 255 stands for; 0 where nothing speaks for a defect."""

    png: bytes
    method: Method
    peak: float


def draw_heat_map(evidence: np.ndarray, height: int, width: int, method: Method) -> HeatMap:
    """evidence: float32, h x w, logits; what speaks against a defect is left out (Grad-CAM's ReLU).

    The cells are enlarged to height x width, the classifier's input, without smoothing over more than they cover. A map
    whose file has more than MAX_BYTES then, which takes thousands of cells, is halved until it has not.
    """
    positive = np.maximum(evidence, 0.0)
    peak = float(positive.max())
    grey = np.zeros(evidence.shape, np.float32) if peak == 0.0 else positive / peak * 255.0
    enlarged = cv2.resize(grey, (width, height), interpolation=cv2.INTER_LINEAR)
    while len(png := encode_png(np.rint(enlarged).astype(np.uint8))) > MAX_BYTES:
        smaller = max(1, enlarged.shape[1] // 2), max(1, enlarged.shape[0] // 2)
        enlarged = cv2.resize(enlarged, smaller, interpolation=cv2.INTER_AREA)
    return HeatMap(png=png, method=method, peak=peak)
