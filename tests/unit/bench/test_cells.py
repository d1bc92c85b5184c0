"""The grid."""

import pytest

from flawsmith.bench.cells import Accounting, Arm, Cell, Regime, enumerate_cells
from flawsmith.common.errors import InvalidArgumentError


def cell(**values: object) -> Cell:
    return Cell.model_validate(
        {"regime": "few", "arm": "mixed", "n_aug": 80, "accounting": "steps", "seed": 0, **values}
    )


def test_the_papers_grid_has_its_number_of_trainings() -> None:
    """Three synthetic arms x three N_aug x three regimes, and `none` once in the two regimes with positives."""
    arms = [Arm.NONE, Arm.PER_REGION, Arm.DIFFUSION, Arm.MIXED]
    cells = enumerate_cells(list(Regime), arms, [80, 100, 120], [Accounting.STEPS], 4)
    assert len(cells) == len(set(cells)) == 4 * (3 * 3 * 3 + 2)
    assert not [one for one in cells if one.regime is Regime.ZERO and one.arm is Arm.NONE]
    assert {one.n_aug for one in cells if one.arm is Arm.NONE} == {0}


def test_all_arms_of_a_seed_come_before_the_next_seed() -> None:
    cells = enumerate_cells([Regime.FEW], [Arm.NONE, Arm.MIXED], [80], list(Accounting), 2)
    assert [(str(one.accounting), one.seed, str(one.arm)) for one in cells] == [
        (accounting, seed, arm) for accounting in ("steps", "epochs") for seed in (0, 1) for arm in ("none", "mixed")
    ]


def test_what_is_asked_for_twice_is_trained_once() -> None:
    twice = enumerate_cells([Regime.FEW] * 2, [Arm.MIXED] * 2, [80, 80], [Accounting.STEPS] * 2, 1)
    assert twice == [cell()]


@pytest.mark.parametrize(
    ("arm", "n_aug", "drawn", "augmented"),
    [("diffusion", 81, 81, 0), ("per-region", 81, 0, 81), ("mixed", 80, 40, 40), ("mixed", 81, 41, 40)],
)
def test_the_kinds_of_synthetic_defects_add_up(arm: str, n_aug: int, drawn: int, augmented: int) -> None:
    one = cell(arm=arm, n_aug=n_aug)
    assert (one.drawn, one.augmented) == (drawn, augmented)


@pytest.mark.parametrize("arm", ["none", "control"])
def test_arms_without_synthetic_defects_have_none_and_need_real_ones(arm: str) -> None:
    assert (cell(arm=arm, n_aug=0).drawn, cell(arm=arm, n_aug=0).augmented) == (0, 0)
    with pytest.raises(ValueError, match="needs n_aug of 0"):
        cell(arm=arm)
    with pytest.raises(ValueError, match="no positives"):
        cell(arm=arm, n_aug=0, regime="zero")


@pytest.mark.parametrize(
    ("regimes", "arms", "n_aug", "reason"),
    [
        ([Regime.ZERO], [Arm.NONE, Arm.CONTROL], [80], "EMPTY_GRID"),
        ([Regime.FEW], [Arm.MIXED], [80, 0], "N_AUG_OUT_OF_RANGE"),
        ([Regime.FEW], [Arm.PER_REGION], [10_001], "N_AUG_OUT_OF_RANGE"),
        ([Regime.FEW], [Arm.MIXED], [1], "N_AUG_TOO_SMALL"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(
    regimes: list[Regime], arms: list[Arm], n_aug: list[int], reason: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        enumerate_cells(regimes, arms, n_aug, [Accounting.STEPS], 4)
    assert caught.value.reason == reason
