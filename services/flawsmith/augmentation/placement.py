"""Where defects may fall: on the product, inside of the region of interest, outside of forbidden zones."""

from __future__ import annotations

from typing import Annotated, Any, Self

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from flawsmith.common.errors import FailedPreconditionError, FieldViolation
from flawsmith.common.foreground import Foreground, ThresholdRule, foreground_mask

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Polygon = Annotated[tuple[tuple[Share, Share], ...], Field(min_length=3, max_length=200)]
"""Corners (x, y) as shares of width and height, so that one zone holds for images of any size."""


class Placement(BaseModel):
    """Parameters that every method has.

    foreground: `texture` where the product fills the image, `object` where it lies before a background.
    foreground_threshold: how `object` splits grey levels. region_of_interest: polygons; defects fall within their
    union (everywhere when empty). forbidden_zones: polygons; no defect falls there.
    min_area, max_area: pixels of the mask; a mask outside of them is drawn again. max_area: no limit when None.
    min_regions, max_regions: connected regions of the mask. Of more than max_regions a random choice is kept, fewer
    than min_regions are drawn again.
    max_draws: draws before a sample is given up with an error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    foreground: Foreground = Foreground.TEXTURE
    foreground_threshold: ThresholdRule = ThresholdRule.OTSU
    region_of_interest: tuple[Polygon, ...] = Field(default=(), max_length=50)
    forbidden_zones: tuple[Polygon, ...] = Field(default=(), max_length=50)
    min_area: int = Field(default=10, ge=1, le=2**26)
    max_area: int | None = Field(default=None, ge=1, le=2**26)
    min_regions: int = Field(default=1, ge=1, le=1000)
    max_regions: int | None = Field(default=None, ge=1, le=1000)
    max_draws: int = Field(default=100, ge=1, le=10_000)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for low, high in (("min_area", "max_area"), ("min_regions", "max_regions")):
            most = getattr(self, high)
            if most is not None and getattr(self, low) > most:
                raise ValueError(f"{low} must not exceed {high}")
        return self


def allowed_area(image: np.ndarray, placement: Placement) -> np.ndarray | None:
    """Where a defect may be: uint8 of height x width, 0 or 255; None when that is everywhere.

    image: uint8, height x width or height x width x 3 RGB.
    Raises FailedPreconditionError (NO_ROOM_FOR_DEFECTS) when less than min_area pixels are left.
    """
    height, width = image.shape[:2]
    allowed: np.ndarray | None = None
    if placement.foreground == Foreground.OBJECT:
        allowed = foreground_mask(image, placement.foreground_threshold)
    if placement.region_of_interest:
        inside = _filled(placement.region_of_interest, height, width)
        allowed = inside if allowed is None else cv2.bitwise_and(allowed, inside)
    if placement.forbidden_zones:
        free = cv2.bitwise_not(_filled(placement.forbidden_zones, height, width))
        allowed = free if allowed is None else cv2.bitwise_and(allowed, free)
    room = height * width if allowed is None else cv2.countNonZero(allowed)
    if room < placement.min_area:
        raise FailedPreconditionError(
            "NO_ROOM_FOR_DEFECTS",
            f"the product, region of interest and forbidden zones leave {room} of {height * width} pixels for defects "
            f"of at least {placement.min_area}; preview the placement and correct foreground (`texture` when the "
            "product fills the image), region_of_interest or forbidden_zones",
            fields=[FieldViolation("parameters.region_of_interest", f"{room} pixels are left for defects")],
        )
    return allowed


def fit(
    rng: np.random.Generator, mask: np.ndarray, area: int, placement: Placement
) -> tuple[np.ndarray, int, dict[str, Any]] | None:
    """A drawn mask with at most max_regions of its regions; None when it must be drawn again.

    mask: uint8, 0 or 255. area: its pixels. Returns the mask, its pixels and what was drawn. Regions are 8-connected.
    """
    drawn: dict[str, Any] = {}
    if area < placement.min_area:
        return None
    if placement.min_regions > 1 or placement.max_regions is not None:
        count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        regions = count - 1
        if regions < placement.min_regions:
            return None
        drawn["regions"] = regions
        if placement.max_regions is not None and regions > placement.max_regions:
            kept = np.sort(rng.permutation(regions)[: placement.max_regions]) + 1
            mask = np.where(np.isin(labels, kept), np.uint8(255), np.uint8(0))
            area = int(statistics[kept, cv2.CC_STAT_AREA].sum())
            drawn["regions"] = len(kept)
    if area < placement.min_area or (placement.max_area is not None and area > placement.max_area):
        return None
    return mask, area, drawn


def _filled(polygons: tuple[Polygon, ...], height: int, width: int) -> np.ndarray:
    """Union of polygons, uint8 of height x width, 0 or 255; a pixel on an edge belongs to the polygon."""
    filled = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        corners = np.array([[x * (width - 1), y * (height - 1)] for x, y in polygon])
        # One at a time: where polygons overlap, fillPoly of all of them at once would leave holes.
        cv2.fillPoly(filled, [np.rint(corners).astype(np.int32)], 255)
    return filled
