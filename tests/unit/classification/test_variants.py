"""The gate before other arithmetic passes what loses nothing, stops what loses a point, and says when it cannot say."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from flawsmith.classification.thresholds import Threshold
from flawsmith.classification.variants import LEAST_POSITIVES, check_gate_possible, pass_gate
from flawsmith.common.errors import AbortedError, FailedPreconditionError

THRESHOLD = Threshold(id="0123456789ab", value=0.5, rule="written for this test")


def scores(defects: int = 60, normals: int = 240) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.array([1] * defects + [0] * normals)
    logits = generator.normal(np.where(labels == 1, 2.5, -2.5), 1.0)
    return labels, 1.0 / (1.0 + np.exp(-logits))


def test_rounding_passes() -> None:
    labels, fp32 = scores()
    gate = pass_gate(labels, fp32, np.round(fp32, 3), THRESHOLD)
    assert (gate.normals, gate.defects) == (240, 60)
    assert gate.ap_fp32 == pytest.approx(average_precision_score(labels, fp32))
    assert -0.01 <= gate.ap_difference_low <= gate.ap - gate.ap_fp32 <= gate.ap_difference_high
    assert gate.verdict_agreement_low <= gate.verdict_agreement == 1.0


def test_a_loss_of_average_precision_is_stopped() -> None:
    labels, fp32 = scores()
    noisy = np.clip(fp32 + np.random.default_rng(1).normal(0, 0.4, len(labels)), 0, 1)
    with pytest.raises(AbortedError) as error:
        pass_gate(labels, fp32, noisy, THRESHOLD)
    assert error.value.reason == "VARIANT_GATE_FAILED"
    assert "deploy fp32" in error.value.message


def test_other_verdicts_are_stopped_though_the_order_stays() -> None:
    labels, fp32 = scores()
    with pytest.raises(AbortedError) as error:
        pass_gate(labels, fp32, fp32 * 0.2, THRESHOLD)  # average precision sees the order alone
    assert error.value.reason == "VARIANT_GATE_FAILED"


def test_parts_that_become_unknown_are_counted() -> None:
    labels, fp32 = scores()
    sure, unsure = (np.where(fp32 < 0.3, score, fp32) for score in (0.0, 0.3))
    pass_gate(labels, sure, unsure, THRESHOLD)
    with pytest.raises(AbortedError) as error:
        pass_gate(labels, sure, unsure, THRESHOLD.model_copy(update={"ok_below": 0.2}))
    assert error.value.reason == "VARIANT_GATE_FAILED"


def test_an_unseen_loss_is_no_reason_to_pass() -> None:
    # One of sixty defects drops to the bottom: a loss of about a point that half of the resamplings show doubled.
    labels, fp32 = scores()
    lost = fp32.copy()
    lost[:1] = 0.0
    with pytest.raises(AbortedError):
        pass_gate(labels, fp32, lost, THRESHOLD)


@pytest.mark.parametrize(("defects", "normals"), [(LEAST_POSITIVES - 1, 300), (0, 300), (25, 20)])
def test_few_images_say_nothing(defects: int, normals: int) -> None:
    labels, fp32 = scores(defects, normals)
    for ask in (lambda: check_gate_possible(labels), lambda: pass_gate(labels, fp32, fp32, THRESHOLD)):
        with pytest.raises(FailedPreconditionError) as error:
            ask()
        assert error.value.reason == "TOO_FEW_POSITIVES"
        assert f"{defects} real defects" in error.value.message
