import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from flawsmith.classification.evaluation import evaluate
from flawsmith.classification.predictions import Image, Predictions
from flawsmith.classification.report import WORST, Section, make_report
from flawsmith.classification.thresholds import Threshold
from flawsmith.common.manifests import Label, Source, Split

THRESHOLD = Threshold(id="0" * 12, value=0.5, rule="by hand")


def section(missed: int, called: int, name: str = "{}.png") -> Section:
    """10 of each label, of which so many are judged wrongly; the picture of row i has the grey level 10 i."""
    images, scores = [], []
    for row in range(20):
        defect = row < 10
        images.append(
            Image("0" * 64, name.format(row), Split.TEST, Label.DEFECT if defect else Label.NORMAL, Source.REAL, "")
        )
        wrong = row < missed if defect else row - 10 < called
        scores.append((0.9 - row / 100) if defect != wrong else (0.1 + row / 100))
    values = np.array(scores, dtype=np.float32)
    predictions = Predictions(tuple(images), np.log(values / (1 - values)), values)
    quality = evaluate(Split.TEST, predictions, THRESHOLD, None, None)
    return Section(quality, predictions, lambda row: np.full((400, 40, 3), 10 * row, np.uint8))


def report(one: Section, threshold: Threshold = THRESHOLD, **changes: object) -> str:
    return make_report("About", [("recipe", "mixed")], threshold, None, [one], **changes)  # type: ignore[arg-type]


class Checker(HTMLParser):
    """Elements that are open, and addresses that are not inside the file."""

    def __init__(self) -> None:
        super().__init__()
        self.unclosed: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self.unclosed.append(tag)
        self._look(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._look(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag

    def _look(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith(("data:", "#")):
                self.outside.append(f"{tag} {value}")


def test_the_file_is_whole_html_that_loads_nothing() -> None:
    text = report(section(2, 2), losses=[0.7, 0.5, 0.4])

    checker = Checker()
    checker.feed(text)
    assert checker.unclosed == []
    assert checker.outside == []
    assert "<script" not in text
    assert text.count("<svg") == 5  # loss, curve, histogram, rates, reliability
    assert report(section(2, 2), losses=[0.7, 0.5, 0.4]) == text  # the same data, the same file


def test_figures_are_those_of_the_evaluation() -> None:
    one = section(3, 1)
    text = report(one)
    point = one.evaluation.at_threshold
    assert f"{one.evaluation.ap:.3f}" in text
    assert (point.recall, point.false_alarm_rate) == (0.7, 0.1)
    assert "<td>0.700 [" in text
    assert point.f1_interval is not None
    assert f"<td>{point.f1:.3f} [{point.f1_interval.low:.3f}, {point.f1_interval.high:.3f}]</td>" in text
    (real,) = one.evaluation.sources
    assert real.ap_interval is not None
    assert f"<td>{real.ap:.3f} [{real.ap_interval.low:.3f}, {real.ap_interval.high:.3f}]</td>" in text
    assert "for comparison with papers only" in text
    assert "<td>7</td><td>3</td><td>1</td><td>9</td>" in text


@pytest.mark.parametrize(("missed", "called"), [(0, 0), (3, 1), (10, 10)])
def test_worst_errors_come_first_as_pictures(missed: int, called: int) -> None:
    one = section(missed, called)
    text = report(one)
    pictures = [
        cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", text)
    ]
    assert len(pictures) == min(missed, WORST) + min(called, WORST)
    assert all(max(picture.shape) == 320 for picture in pictures)
    scores, labels = one.predictions.scores, one.predictions.labels
    wrong = (labels == 1) != (scores >= 0.5)
    rows = sorted(np.flatnonzero(wrong & (labels == 1)), key=lambda row: scores[row])[:WORST]
    rows += sorted(np.flatnonzero(wrong & (labels == 0)), key=lambda row: -scores[row])[:WORST]
    assert [round(float(picture.mean()) / 10) for picture in pictures] == [int(row) for row in rows]
    assert f"Defects called OK, the lowest scores first ({missed} in all)" in text
    assert f"False alarms, the highest scores first ({called} in all)" in text


def test_of_two_thresholds_each_figure_says_which_it_is_about() -> None:
    """Defects score 0.10 to 0.13, then 0.86 to 0.81; normals 0.80 and 0.79, then 0.22 to 0.29."""
    two = Threshold(id="0" * 12, value=0.825, rule="by hand", ok_below=0.115)
    one = section(4, 2)
    quality = evaluate(Split.TEST, one.predictions, two, None, None)
    text = report(replace(one, evaluation=quality), two)
    assert quality.at_ok_below is not None
    assert "10 real normals, 10 real defects. Called unknown: 10 normals, 4 defects." in text
    lower, upper = (
        text[text.index(f"{name}</td>") :].split("</tr>")[0]
        for name in ("lower threshold: not OK", "upper threshold: defective")
    )
    assert lower.endswith("<td>8</td><td>2</td><td>10</td><td>0</td>")
    assert upper.endswith("<td>4</td><td>6</td><td>0</td><td>10</td>")
    interval = quality.at_ok_below.recall_interval
    assert interval is not None
    assert f"<td>0.800 [{interval.low:.3f}, {interval.high:.3f}]</td>" in lower
    assert "Defects called OK, the lowest scores first (2 in all)" in text
    assert "False alarms, the highest scores first (0 in all)" in text
    assert "unknown" not in report(one)


def test_errors_of_synthetic_defects_are_told_apart() -> None:
    one = section(3, 0)
    images = [
        replace(image, source=Source.IN_DISTRIBUTION) if row in (1, 2, 9) else image
        for row, image in enumerate(one.predictions.images)
    ]
    predictions = replace(one.predictions, images=tuple(images))
    quality = evaluate(Split.TEST, predictions, THRESHOLD, None, None)
    text = report(replace(one, evaluation=quality, predictions=predictions))
    assert quality.at_threshold.false_negatives == 1
    assert "Defects called OK, the lowest scores first (1 in all)" in text
    assert "Synthetic defects called OK, the lowest scores first (2 in all)" in text


def test_false_alarms_of_reconstructed_normals_are_told_apart() -> None:
    one = section(0, 4)
    images = [
        replace(image, source=Source.RECONSTRUCTED) if row in (10, 11, 19) else image
        for row, image in enumerate(one.predictions.images)
    ]
    predictions = replace(one.predictions, images=tuple(images))
    quality = evaluate(Split.TEST, predictions, THRESHOLD, None, None)
    text = report(replace(one, evaluation=quality, predictions=predictions))
    assert "False alarms, the highest scores first (2 in all)" in text
    assert "False alarms of reconstructed normals, the highest scores first (2 in all)" in text
    assert "<td>reconstructed</td><td>3</td><td>0</td>" in text
    assert "<td>0.667 [" in text
    assert "of reconstructed normals" not in report(section(0, 4))


def test_names_of_files_cannot_become_html() -> None:
    text = report(section(1, 0, name='"><script>alert({})</script>'))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
