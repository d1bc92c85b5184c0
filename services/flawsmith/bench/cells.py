"""The grid of the benchmark: what is trained and measured once each."""

from __future__ import annotations

from typing import Literal

from flawsmith.common.manifests import Manifest

RegimeName = Literal["zero", "few", "full"]
Arm = Literal["none", "per-region", "diffusion", "mixed", "control"]
Accounting = Literal["steps", "epochs"]


class Cell(Manifest):
    """One training and its test.

    arm: what joins the real images in train; `none` adds nothing, `control` only normals that went through the
    diffusion model's encoder and decoder. n_aug: synthetic defects, 0 for those two. accounting: whether all arms train
    for the same optimiser steps, or for the paper's epochs.
    """

    regime: RegimeName
    arm: Arm
    n_aug: int
    accounting: Accounting
    seed: int
