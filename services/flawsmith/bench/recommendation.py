"""What to do, in words that claim no more than the intervals carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flawsmith.bench import statistics
from flawsmith.bench.cells import Accounting, Arm
from flawsmith.bench.statistics import Comparison, Evidence, Measured, Trace
from flawsmith.bench.tables import interval_text, number, signed


@dataclass(frozen=True)
class Recommendation:
    """verdict: what to do. caution: how far the test carries it. findings: of each comparison."""

    verdict: str
    caution: tuple[str, ...]
    findings: tuple[str, ...]


def recommend(cells: Sequence[Measured]) -> Recommendation:
    """In sentences, about one regime and accounting. cells: of that regime and accounting.

    Shown means: the interval that holds for all of the comparisons together leaves out 0. Nothing is called equal.
    """
    compared = statistics.comparisons(cells)
    between = {(one.first, one.second): one for one in compared if one.first is not one.second}
    synthetic = [arm for arm in Arm if arm.synthetic and any(one.arm is arm for one in cells)]
    gains = {arm: between[arm, Arm.NONE] for arm in synthetic if (arm, Arm.NONE) in between}
    findings = [_effect(one) for one in compared]
    if not gains:
        findings += _against_guessing(cells, synthetic)
    return Recommendation(
        _verdict(cells, synthetic, gains, between), tuple(_reach(cells, list(between.values()))), tuple(findings)
    )


def weigh_accountings(cells: Sequence[Measured]) -> list[str]:
    """Sentences about one regime: whether a gain over `none` stays when all arms train for as many steps."""
    by = {
        accounting: {
            (one.first, one.second): one
            for one in statistics.comparisons([cell for cell in cells if cell.result.cell.accounting is accounting])
        }
        for accounting in Accounting
    }
    said = []
    for arm in Arm:
        pair = (arm, Arm.NONE)
        if not arm.synthetic or any(pair not in by[accounting] for accounting in Accounting):
            continue
        steps, epochs = by[Accounting.STEPS][pair], by[Accounting.EPOCHS][pair]
        if _shown(epochs) > 0 and _shown(steps) <= 0:
            said.append(
                f"{arm} is shown to be better than none by the paper's epochs ({_figures(epochs)}), but not at equal "
                f"optimiser steps ({_figures(steps)}): training longer may account for the gain."
            )
        elif _shown(epochs) > 0 and _shown(steps) > 0:
            said.append(f"{arm} is shown to be better than none both by the paper's epochs and at equal steps.")
    return said


def describe_traces(traces: Sequence[Trace]) -> list[str]:
    """Sentences about arms of one regime and accounting: whether they react to the decoder instead of defects."""
    found = [one for one in traces if one.above is not None and one.difference is not None]
    said = []
    for one in found:
        assert one.above is not None
        assert one.difference is not None
        above, difference = one.above.interval(len(found)), one.difference.interval(len(found))
        share = f"{100 * (one.above.mean + 0.5):.0f} %"
        if above is not None:
            share += f" of pairs ({100 * (above[0] + 0.5):.0f} to {100 * (above[1] + 0.5):.0f} %)"
        alarms = f"False alarms on them differ by {signed(one.difference.mean)}"
        if difference is not None:
            alarms += f" ({interval_text(difference, signed)})"
        measured = f"A reconstructed normal scores above a real one in {share}; without a trace it is 50 %. {alarms}."
        if one.above.seeds < 2:
            said.append(f"{one.arm}: one seed shows nothing about the arm. {measured}")
        elif above is not None and above[0] > 0:
            said.append(
                f"{one.arm}: a trace of the decoder is shown. {measured} Neither has a defect: part of what this arm "
                "learned may be how decoded pictures look."
            )
        else:
            said.append(f"{one.arm}: no trace of the decoder shown. {measured}")
    return said


def _verdict(
    cells: Sequence[Measured],
    synthetic: Sequence[Arm],
    gains: dict[Arm, Comparison],
    between: dict[tuple[Arm, Arm], Comparison],
) -> str:
    if not synthetic:
        return "Nothing to recommend: no arm with synthetic defects was measured."
    if not between:
        return "Nothing to recommend: there are no two arms with a seed in common to compare."
    if all(one.ap.seeds < 2 for one in between.values()):
        return (
            "Nothing to recommend: with one seed, a difference between arms cannot be told from the noise of training. "
            "Run at least four."
        )
    if gains and not any(_shown(one) > 0 for one in gains.values()):
        return (
            "No recommendation for synthetic defects here: no arm is shown to be better than training without them. "
            "That is not evidence that they do nothing; see how large a gain the intervals leave open."
        )
    candidates = [arm for arm, gain in gains.items() if _shown(gain) > 0] if gains else list(synthetic)
    candidates = [arm for arm in candidates if not _beaten(arm, candidates, between)]
    if not gains:
        candidates = [arm for arm in candidates if _beats_guessing(cells, arm)]
        if not candidates:
            return "Nothing to recommend: no arm is shown to rank defects better than guessing."
    why = "shown to be better than training without synthetic defects" if gains else "shown to be better than guessing"
    if len(candidates) == 1:
        (arm,) = candidates
        over = [other for other in synthetic if _beaten(other, [arm], between)]
        open_ = [other for other in synthetic if other is not arm and other not in over]
        also = f", and better than {_join(over)}" if over else ""
        caution = f" It is not shown to be better than {_join(open_, 'or')}." if open_ else ""
        figures = f" ({_figures(gains[arm])} in AP)" if gains else ""
        return f"Use {arm}: it is {why}{figures}{also}.{caution}"
    worse = [other for other in synthetic if _beaten(other, candidates, between)]
    are = "is" if len(worse) == 1 else "are"
    left_out = f" {_join(worse)} {are} shown to be worse than one of them." if worse else ""
    cheapest = (
        " per-region costs least: it needs no diffusion model and no fine-tuning."
        if Arm.PER_REGION in candidates
        else ""
    )
    return (
        f"Use {_join(candidates, 'or')}: each is {why}, and none of them is shown to be better than another."
        f"{left_out}{cheapest}"
    )


def _effect(one: Comparison) -> str:
    name = one.name if one.first is one.second else f"{one.first} against {one.second}"
    interval = one.ap.interval(one.beside)
    if one.evidence is Evidence.ONE_SEED:
        return f"{name}: {signed(one.ap.mean)} with one seed, which shows nothing."
    if interval is None:
        return (
            f"{name}: in every training both order defects and normals alike, so this test cannot tell them apart; a "
            "harder or larger one might."
        )
    if _shown(one):
        return f"{name}: {'higher' if one.ap.mean > 0 else 'lower'} AP is shown, {_figures(one)}."
    caution = " (its own 95 % interval leaves out 0, those of all together do not)"
    return f"{name}: no difference shown{caution if one.evidence is Evidence.ALONE else ''}, {_figures(one)}."


def _against_guessing(cells: Sequence[Measured], arms: Sequence[Arm]) -> list[str]:
    said = []
    for arm in arms:
        ap, _ = statistics.estimate([one for one in cells if one.arm is arm])
        between = f" (95 % interval {interval_text(ap.interval())})" if ap.interval() else ""
        found = (
            "shown to be better than guessing"
            if _beats_guessing(cells, arm)
            else "not shown to be better than guessing"
        )
        said.append(
            f"{arm}: AP {number(ap.mean)}{between}, {found}, which would give {number(_share_of_defects(cells))}."
        )
    return said


def _reach(cells: Sequence[Measured], between: Sequence[Comparison]) -> list[str]:
    """What this grid could not have shown."""
    intervals = [one.ap.interval(one.beside) for one in between if one.ap.seeds > 1]
    halves = [(high - low) / 2 for low, high in filter(None, intervals)]
    defects = int(cells[0].labels.sum())
    said = []
    if halves:
        seeds = max(one.ap.seeds for one in between)
        said.append(
            f"With {defects} test defects and {seeds} seeds, half an interval is {number(float(np.median(halves)))} "
            f"wide (the median of {len(halves)}): differences smaller than that would seldom be shown here."
        )
    datasets: dict[tuple[Arm, int], list[str]] = {}
    for cell in cells:
        datasets.setdefault((cell.arm, cell.n_aug), []).append(cell.result.dataset)
    if any(len(names) > len(set(names)) for names in datasets.values()):
        said.append(
            "Seeds of an arm share their data: the intervals hold the noise of training and of the test images, not "
            "that of another adapter, other synthetic defects or another choice of real ones."
        )
    perfect = sum(one.values[0] > 1 - 1e-9 for one in cells)
    if perfect:
        # Where a share of all defects is missed, a test of n has none of them with probability (1 - share)^n.
        missed = 1 - statistics.CHANCE ** (1 / defects)
        said.append(
            f"{perfect} of {len(cells)} trainings rank every test defect above every normal. {defects} defects "
            f"cannot show more than that: up to {100 * missed:.0f} % of all defects could still be of a kind that is "
            "missed (95 % bound)."
        )
    return said


def _shown(one: Comparison) -> int:
    """1: shown to be higher, -1: shown to be lower, 0: not shown."""
    return int(np.sign(one.ap.mean)) if one.evidence is Evidence.SHOWN else 0


def _beaten(arm: Arm, by: Sequence[Arm], between: dict[tuple[Arm, Arm], Comparison]) -> bool:
    return any(
        ((other, arm) in between and _shown(between[other, arm]) > 0)
        or ((arm, other) in between and _shown(between[arm, other]) < 0)
        for other in by
    )


def _beats_guessing(cells: Sequence[Measured], arm: Arm) -> bool:
    ap, _ = statistics.estimate([one for one in cells if one.arm is arm])
    interval = ap.interval(len({one.arm for one in cells}))
    # Without an interval all trainings rank alike: perfectly, or all scores are tied.
    return ap.seeds > 1 and (interval[0] if interval else ap.mean) > _share_of_defects(cells)


def _share_of_defects(cells: Sequence[Measured]) -> float:
    """The AP of random scores, nearly."""
    return float(cells[0].labels.mean())


def _figures(one: Comparison) -> str:
    return f"{signed(one.ap.mean)} [{interval_text(one.ap.interval(one.beside), signed)}]"


def _join(arms: Sequence[Arm], word: str = "and") -> str:
    names = [str(arm) for arm in arms]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"
