"""The grid of In&Out's experiments: which trainings there are, and what each is called."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flawsmith.common.errors import InvalidArgumentError

MAX_SYNTHETIC = 10_000
"""Images that one batch may hold."""


class Regime(StrEnum):
    """How many real positives training may use: none, five, all."""

    ZERO = "zero"
    FEW = "few"
    FULL = "full"


class Arm(StrEnum):
    """What training gets besides the regime's real images.

    NONE: nothing. PER_REGION, DIFFUSION: n_aug synthetic positives of one kind. MIXED: half of each, an odd one drawn
    by diffusion. CONTROL: no positives, but normals that went through the diffusion model's encoder and decoder,
    labelled normal.
    """

    NONE = "none"
    PER_REGION = "per-region"
    DIFFUSION = "diffusion"
    MIXED = "mixed"
    CONTROL = "control"

    @property
    def synthetic(self) -> bool:
        """Whether it adds synthetic positives."""
        return self not in (Arm.NONE, Arm.CONTROL)


class Accounting(StrEnum):
    """How long arms are trained: equal optimiser steps for all, or the paper's epochs (more positives, more steps)."""

    STEPS = "steps"
    EPOCHS = "epochs"


class Cell(BaseModel):
    """One training. n_aug: synthetic positives, 0 for arms without any. seed: from 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    regime: Regime
    arm: Arm
    n_aug: int = Field(ge=0, le=MAX_SYNTHETIC)
    accounting: Accounting
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _exists(self) -> Self:
        if self.arm.synthetic != (self.n_aug > 0):
            raise ValueError(f"{self.arm} needs n_aug {'above' if self.arm.synthetic else 'of'} 0")
        if self.regime is Regime.ZERO and not self.arm.synthetic:
            raise ValueError(f"zero x {self.arm} has no positives to train on")
        return self

    @property
    def drawn(self) -> int:
        """Positives drawn by diffusion."""
        return {Arm.DIFFUSION: self.n_aug, Arm.MIXED: self.n_aug - self.n_aug // 2}.get(self.arm, 0)

    @property
    def augmented(self) -> int:
        """Positives made by per-region augmentation."""
        return self.n_aug - self.drawn

    def __str__(self) -> str:
        count = f" {self.n_aug}" if self.n_aug else ""
        return f"{self.regime} {self.arm}{count}, by {self.accounting}, seed {self.seed}"


def enumerate_cells(
    regimes: Sequence[Regime],
    arms: Sequence[Arm],
    n_aug: Sequence[int],
    accountings: Sequence[Accounting],
    seeds: int,
) -> list[Cell]:
    """Every cell that exists, once, in the order to run them: all arms of a seed before the next seed, so that a run
    which is cut off can compare them.

    Raises InvalidArgumentError: EMPTY_GRID, N_AUG_OUT_OF_RANGE, N_AUG_TOO_SMALL.
    """
    if any(not 1 <= count <= MAX_SYNTHETIC for count in n_aug):
        raise InvalidArgumentError("N_AUG_OUT_OF_RANGE", f"--n-aug takes numbers from 1 to {MAX_SYNTHETIC}")
    if Arm.MIXED in arms and any(count < 2 for count in n_aug):
        raise InvalidArgumentError("N_AUG_TOO_SMALL", "half and half needs --n-aug of 2 or more")
    cells = [
        Cell(regime=regime, arm=arm, n_aug=count, accounting=accounting, seed=seed)
        for regime in dict.fromkeys(regimes)
        for accounting in dict.fromkeys(accountings)
        for seed in range(seeds)
        for arm in dict.fromkeys(arms)
        for count in (dict.fromkeys(n_aug) if arm.synthetic else (0,))
        if arm.synthetic or regime is not Regime.ZERO
    ]
    if not cells:
        raise InvalidArgumentError(
            "EMPTY_GRID",
            "nothing to train: the zero-shot regime has no positives, so `none` and `control` do not exist in it; add "
            "an arm with synthetic defects and --n-aug, or another regime",
        )
    return cells
