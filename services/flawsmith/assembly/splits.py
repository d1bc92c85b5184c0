"""Train, validation and test are fixed once, at import: seeded, and no group is ever parted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from flawsmith.common.manifests import Label, Split

MIN_TRAIN_DEFECTS = 5
"""Validation takes no defect that would leave train with fewer: the few-shot regime needs this many."""


@dataclass(frozen=True)
class Item:
    """What the rule may know of an image. split: as given, None where the layout gives none."""

    label: Label
    split: Split | None
    defect_type: str
    group: str


def assign(
    items: Sequence[Item], *, seed: int, validation_share: float, joined: Iterable[tuple[int, int]] = ()
) -> tuple[list[Split], str]:
    """The split of each item, and the rule in words.

    A given test split is kept. Where defects have no split, half of each kind (rounded up, but never the last one)
    goes to train and the rest to test. Then `validation_share` of train's normals and, while train keeps five, of
    its defects are held out.
    joined: positions of items that show the same picture; they and their groups stay together.
    """
    groups = _groups(items, joined)
    # One generator a question: the answer to one does not change when the other has more candidates.
    splits: list[Split | None] = [item.split for item in items]
    rule = []
    if any(split is None for split in splits):
        _divide_defects(items, splits, groups, np.random.default_rng([seed, 0]))
        rule.append(
            "of the defects of each kind, half (rounded up, but never the last one) are train, chosen at random by "
            f"whole groups with seed {seed}, the others test"
        )
    decided = [split for split in splits if split is not None]
    held_out = _hold_out(items, decided, groups, validation_share, np.random.default_rng([seed, 1]))
    rule.append(
        f"validation: {validation_share:.0%} of the train normals, and of the train defects as long as train keeps "
        f"{MIN_TRAIN_DEFECTS}, held out at random by whole groups with seed {seed}"
    )
    final = [Split.VALIDATION if index in held_out else split for index, split in enumerate(decided)]
    return final, "; ".join(rule)


def _groups(items: Sequence[Item], joined: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Positions by group, groups that share a picture merged."""
    parent = list(range(len(items)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first_of: dict[str, int] = {}
    for index, item in enumerate(items):
        parent[root(index)] = root(first_of.setdefault(item.group, index))
    for one, other in joined:
        parent[root(one)] = root(other)
    groups: dict[int, list[int]] = {}
    for index in range(len(items)):
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())


def _divide_defects(
    items: Sequence[Item], splits: list[Split | None], groups: list[list[int]], rng: np.random.Generator
) -> None:
    """Give defects without a split theirs, kind by kind."""
    remaining: dict[str, int] = {}
    for item, split in zip(items, splits, strict=True):
        if split is None:
            remaining[item.defect_type] = remaining.get(item.defect_type, 0) + 1
    quota = {kind: min((count + 1) // 2, count - 1) for kind, count in remaining.items()}
    for position in rng.permutation(len(groups)):
        group = groups[position]
        open_ones = [index for index in group if splits[index] is None]
        given = {splits[index] for index in group} - {None}
        needs: dict[str, int] = {}
        for index in open_ones:
            needs[items[index].defect_type] = needs.get(items[index].defect_type, 0) + 1
        if given:
            # A group that is already in a split stays there whole.
            target = Split.TEST if Split.TEST in given else Split.TRAIN
        else:
            target = Split.TRAIN if all(quota[kind] >= count for kind, count in needs.items()) else Split.TEST
        for index in open_ones:
            splits[index] = target
        if target == Split.TRAIN:
            for kind, count in needs.items():
                quota[kind] -= count


def _hold_out(
    items: Sequence[Item],
    splits: Sequence[Split],
    groups: list[list[int]],
    share: float,
    rng: np.random.Generator,
) -> set[int]:
    """Positions that leave train for validation."""
    train_groups = [group for group in groups if all(splits[index] == Split.TRAIN for index in group)]
    counts = [_count(items, group) for group in train_groups]
    normals, defects = (sum(count[place] for count in counts) for place in (0, 1))
    wanted = [
        max(1, round(share * normals)),
        max(0, min(round(share * defects), defects - MIN_TRAIN_DEFECTS)),
    ]
    taken = [0, 0]
    held_out: set[int] = set()
    order = rng.permutation(len(train_groups)).tolist()
    # Groups with defects first: those without can then still make the normals' number right.
    for position in sorted(order, key=lambda place: counts[place][1] == 0):
        count = counts[position]
        after = [taken[place] + count[place] for place in (0, 1)]
        closer = sum(abs(wanted[place] - after[place]) for place in (0, 1)) < sum(
            abs(wanted[place] - taken[place]) for place in (0, 1)
        )
        keeps_train = after[0] < normals and after[1] <= wanted[1]
        if closer and keeps_train:
            taken = after
            held_out.update(train_groups[position])
    if taken[0] == 0:
        # Groups so large that none comes close: a threshold needs normals, so the smallest group that has any goes.
        possible = [
            position for position in order if 0 < counts[position][0] < normals and counts[position][1] <= wanted[1]
        ]
        if possible:
            held_out.update(train_groups[min(possible, key=lambda position: len(train_groups[position]))])
    return held_out


def _count(items: Sequence[Item], group: Sequence[int]) -> tuple[int, int]:
    defects = sum(items[index].label == Label.DEFECT for index in group)
    return len(group) - defects, defects
