"""What is recommended where the truth is known."""

from __future__ import annotations

import numpy as np

from flawsmith.bench import recommendation, statistics
from tests.unit.bench.grids import cell_result, scores_of

LABELS = (np.arange(200) < 60).astype(int)


def measured(separations: dict[str, float], seeds: int = 6, **fields):
    """Every arm's images are alike, as are those of the same seed in another arm; arms differ by `separations`."""
    image = np.random.default_rng(7).normal(0, 0.8, 200)
    results = []
    for arm, separation in separations.items():
        for seed in range(seeds):
            noise = np.random.default_rng((seed, len(arm))).normal(0, 0.2, 200)
            scores = 1 / (1 + np.exp(-(image + noise + separation * LABELS)))
            results.append(cell_result(arm, seed, LABELS, scores, **fields))
    return statistics.measure(results)


def test_the_one_arm_that_is_shown_to_be_better_is_recommended() -> None:
    found = recommendation.recommend(measured({"none": 0.5, "per-region": 0.5, "diffusion": 0.5, "mixed": 1.5}))
    assert found.verdict.startswith("Use mixed: it is shown to be better than training without synthetic defects (+0.")
    assert found.verdict.endswith("and better than per-region and diffusion.")
    assert any(text.startswith("mixed against none: higher AP is shown") for text in found.findings)


def test_arms_that_are_not_told_apart_are_not_ranked_and_the_cheaper_is_named() -> None:
    found = recommendation.recommend(measured({"none": 0.0, "per-region": 1.5, "mixed": 1.5}))
    assert found.verdict.startswith("Use per-region or mixed: each is shown to be better than training without")
    assert "none of them is shown to be better than another" in found.verdict
    assert "per-region costs least" in found.verdict


def test_an_arm_that_is_worse_than_one_of_those_recommended_is_named() -> None:
    found = recommendation.recommend(measured({"none": 0.0, "per-region": 2.2, "diffusion": 0.9, "mixed": 2.2}))
    assert found.verdict.startswith("Use per-region or mixed: ")
    assert "diffusion is shown to be worse than one of them." in found.verdict


def test_no_gain_is_not_called_equality() -> None:
    found = recommendation.recommend(measured({"none": 1.0, "per-region": 1.0, "mixed": 1.0}))
    assert found.verdict.startswith("No recommendation for synthetic defects here")
    assert "not evidence that they do nothing" in found.verdict
    assert any(text.startswith("mixed against none: no difference shown") for text in found.findings)
    assert "equal" not in " ".join([found.verdict, *found.findings])
    assert found.caution[0].startswith("With 60 test defects and 6 seeds, half an interval is 0.")


def test_a_worse_arm_is_said_to_be_worse() -> None:
    found = recommendation.recommend(measured({"none": 1.5, "diffusion": 0.2}))
    assert found.verdict.startswith("No recommendation for synthetic defects here")
    assert any(text.startswith("diffusion against none: lower AP is shown, −0.") for text in found.findings)


def test_one_seed_recommends_nothing_whatever_it_measured() -> None:
    found = recommendation.recommend(measured({"none": 0.0, "mixed": 4.0}, seeds=1))
    assert found.verdict.startswith("Nothing to recommend: with one seed")


def test_zero_shot_arms_are_measured_against_guessing() -> None:
    found = recommendation.recommend(measured({"per-region": 0.0, "mixed": 2.0}, regime="zero"))
    assert found.verdict == "Use mixed: it is shown to be better than guessing, and better than per-region."
    assert any(
        text.startswith("per-region: AP 0.") and "not shown to be better than guessing, which would give 0.300" in text
        for text in found.findings
    )
    nothing = recommendation.recommend(measured({"per-region": 0.0, "diffusion": 0.0}, regime="zero"))
    assert nothing.verdict == "Nothing to recommend: no arm is shown to rank defects better than guessing."


def test_a_perfect_test_is_said_to_be_too_small_for_more() -> None:
    perfect = 0.1 + 0.8 * LABELS
    cells = statistics.measure(
        [cell_result(arm, seed, LABELS, perfect) for arm in ("none", "mixed") for seed in range(4)]
    )
    found = recommendation.recommend(cells)
    # Of a share p of missed defects, a test of 60 has none with probability (1 - p) ** 60 = 5 % at p = 4.9 %.
    assert found.caution == (
        "8 of 8 trainings rank every test defect above every normal. 60 defects cannot show more than that: up to 5 % "
        "of all defects could still be of a kind that is missed (95 % bound).",
    )
    assert found.findings == (
        "mixed against none: in every training both order defects and normals alike, so this test cannot tell them "
        "apart; a harder or larger one might.",
    )


def test_data_that_seeds_share_is_said_to_be_in_no_interval() -> None:
    cells = measured({"none": 1.0, "mixed": 1.0}, seeds=2)
    assert not any("share their data" in text for text in recommendation.recommend(cells).caution)
    one_pool = [one.result.model_copy(update={"dataset": f"products/steel/datasets/{one.arm}"}) for one in cells]
    caution = recommendation.recommend(statistics.measure(one_pool)).caution
    assert any("not that of another adapter" in text for text in caution)


def test_a_gain_that_goes_with_longer_training_is_not_put_down_to_the_defects() -> None:
    longer = measured({"none": 0.2, "mixed": 1.5}, accounting="epochs")
    equal = measured({"none": 1.5, "mixed": 1.5}, accounting="steps")
    (said,) = recommendation.weigh_accountings([*longer, *equal])
    assert said.startswith("mixed is shown to be better than none by the paper's epochs")
    assert said.endswith("training longer may account for the gain.")
    better = measured({"none": 0.2, "mixed": 1.5}, accounting="steps")
    (said,) = recommendation.weigh_accountings([*longer, *better])
    assert said == "mixed is shown to be better than none both by the paper's epochs and at equal steps."
    assert recommendation.weigh_accountings(longer) == []


def test_a_trace_of_the_decoder_is_said_where_it_is_shown() -> None:
    def said(shift: float, seeds: int = 4) -> str:
        cells = []
        for seed in range(seeds):
            scores = scores_of(LABELS, 1.0, seed)
            made = scores_of(np.ones(140), shift, 50 + seed)
            cells.append(cell_result("diffusion", seed, LABELS, scores, reconstructed=made))
        (text,) = recommendation.describe_traces(statistics.traces(statistics.measure(cells)))
        return text

    assert said(0.8).startswith("diffusion: a trace of the decoder is shown. A reconstructed normal scores above")
    assert said(0.0).startswith("diffusion: no trace of the decoder shown.")
    assert said(0.8, seeds=1).startswith("diffusion: one seed shows nothing")
