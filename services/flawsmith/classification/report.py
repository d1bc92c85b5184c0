"""One self-contained HTML file about an evaluation: figures with intervals, plots, and the worst errors as pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import cv2
import numpy as np

from flawsmith.classification.calibration import Calibration
from flawsmith.classification.intervals import Interval
from flawsmith.classification.manifests import Evaluation, Group, OperatingPoint
from flawsmith.classification.predictions import Predictions
from flawsmith.classification.thresholds import Threshold

WORST = 8
"""Pictures of each kind of error."""
PICTURE_SIDE = 320
"""Of the longer side of a picture, pixels; defects of a few pixels still show."""

_BLUE, _RED = "#1f4e8c", "#c0392b"
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#222;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left}small,.note{color:#666}.plots{display:flex;flex-wrap:wrap;gap:1rem}
figure{display:inline-block;margin:.4rem;vertical-align:top}
figcaption{font-size:12px;max-width:16rem;overflow-wrap:anywhere}
img{display:block;border:1px solid #bbb}
h2{border-top:2px solid #222;padding-top:.6rem;margin-top:2rem}
"""


@dataclass(frozen=True)
class Section:
    """A split: its figures, each image's scores, and how to get an image's pixels (uint8, H x W x 3) by its row."""

    evaluation: Evaluation
    predictions: Predictions
    pixels: Callable[[int], np.ndarray]


def make_report(
    title: str,
    facts: Sequence[tuple[str, str]],
    threshold: Threshold,
    calibration: Calibration | None,
    sections: Sequence[Section],
    losses: Sequence[float] = (),
) -> str:
    """The file's text. title: of the page. facts: (name, value) lines at its head. losses: of every training step."""
    rows = [*facts, ("threshold", f"{threshold.value:.6g}: {threshold.rule} (id {threshold.id})")]
    if threshold.ok_below is not None:
        rows.append(("unknown", f"from {threshold.ok_below:.6g} to {threshold.value:.6g}"))
    rows.append(("calibration", _describe_calibration(calibration)))
    body = [f"<h1>{escape(title)}</h1>", _table([], rows)]
    if losses:
        body.append(f'<div class="plots">{_plot_losses(losses)}</div>')
    for section in sections:
        body.append(_section(section, threshold, calibration))
    body.append(
        '<p class="note">Intervals are of 95 %: Clopper-Pearson for recall and false alarms, a bootstrap within each '
        "label for average precision, precision and F1. They speak of the images that were there; kinds of defects "
        "that none of them shows are in no interval.</p>"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>"
    )


def _section(section: Section, threshold: Threshold, calibration: Calibration | None) -> str:
    found, real = section.evaluation, section.predictions.take(section.predictions.real)
    unknown = ""
    if threshold.ok_below is not None:
        unknown = f" Called unknown: {found.unknown_normals} normals, {found.unknown_defects} defects."
    parts = [
        f"<h2>{found.split.value}</h2>",
        f"<p>{found.normals} real normals, {found.defects} real defects.{unknown}</p>",
        _table(
            ["", "value", "95 % interval"],
            [
                ("average precision", _number(found.ap), _interval(found.ap_interval)),
                (
                    "area by trapezoids",
                    _number(found.ap_trapezoid),
                    _interval(found.ap_trapezoid_interval),
                ),
            ],
        ),
        _operating_points(found),
        _groups("By type of defect, against all real normals", found.defect_types),
        _groups("By where images came from, synthetic ones included", found.sources),
    ]
    plots = [_plot_histogram(real, threshold)]
    if found.curve:
        plots.insert(0, _plot_curve(found))
        plots.append(_plot_rates(real, threshold))
    if found.reliability is not None and found.defects:
        plots.append(_plot_reliability(found))
    parts.append(f'<div class="plots">{"".join(plots)}</div>')
    parts.append(_errors(section, threshold))
    return "".join(parts)


def _operating_points(found: Evaluation) -> str:
    points: list[tuple[str, OperatingPoint | None]] = [
        *_own_points(found),
        ("best F1 on validation", found.at_best_f1_of_validation),
        (f"best F1 on {found.split.value} itself, for comparison with papers only", found.at_best_f1_here),
    ]
    rows = [
        (
            name,
            f"{point.threshold:.4f}",
            f"{point.precision:.3f} {_interval(point.precision_interval)}",
            f"{point.recall:.3f} {_interval(point.recall_interval)}",
            f"{point.f1:.3f} {_interval(point.f1_interval)}",
            f"{point.false_alarm_rate:.3f} {_interval(point.false_alarm_rate_interval)}",
            str(point.true_positives),
            str(point.false_negatives),
            str(point.false_positives),
            str(point.true_negatives),
        )
        for name, point in points
        if point is not None
    ]
    head = [
        "chosen by", "threshold", "precision", "recall", "F1", "false alarms", "defects from it on", "defects below",
        "normals from it on", "normals below",
    ]  # fmt: skip
    note = ""
    if found.at_ok_below is not None:
        note = (
            '<p class="note">At the lower threshold all parts count that are not called OK, the unknown ones among '
            "them; at the upper one those called defective.</p>"
        )
    return _table(head, rows) + note


def _own_points(found: Evaluation) -> list[tuple[str, OperatingPoint]]:
    """What comes of the version's threshold; of two, of both, the lower one first."""
    if found.at_ok_below is None:
        return [("version's threshold", found.at_threshold)]
    return [
        ("version's lower threshold: not OK", found.at_ok_below),
        ("version's upper threshold: defective", found.at_threshold),
    ]


def _groups(title: str, groups: Sequence[Group]) -> str:
    if not groups:
        return ""
    rows = [
        (
            group.name, str(group.normals), str(group.defects),
            f"{_number(group.ap)} {_interval(group.ap_interval)}",
            f"{_number(group.recall)} {_interval(group.recall_interval)}",
            f"{_number(group.false_alarm_rate)} {_interval(group.false_alarm_rate_interval)}",
        )
        for group in groups
    ]  # fmt: skip
    head = ["", "normals", "defects", "average precision", "defects called defective", "normals called so"]
    return f"<h3>{title}</h3>{_table(head, rows)}"


def _errors(section: Section, threshold: Threshold) -> str:
    """The defects that scored lowest among those called OK, the normals that scored highest among those called
    defective; synthetic images apart, for the figures above are of real ones."""
    predictions = section.predictions
    labels, real = predictions.labels, predictions.real
    verdicts = np.array([threshold.verdict(float(score)) for score in predictions.scores])
    passed, called = (labels == 1) & (verdicts == "ok"), (labels == 0) & (verdicts == "defective")
    lists = [
        ("Defects called OK, the lowest scores first", _by_score(predictions, passed & real)),
        ("False alarms, the highest scores first", _by_score(predictions, called & real)[::-1]),
    ]
    if (~real & (labels == 1)).any():
        title = "Synthetic defects called OK, the lowest scores first"
        lists.append((title, _by_score(predictions, passed & ~real)))
    if (~real & (labels == 0)).any():
        title = "False alarms of reconstructed normals, the highest scores first"
        lists.append((title, _by_score(predictions, called & ~real)[::-1]))
    parts = []
    for title, rows in lists:
        parts.append(f"<h3>{title} ({len(rows)} in all)</h3>")
        parts += [_picture(section, int(row)) for row in rows[:WORST]] or ["<p>none</p>"]
    return "".join(parts)


def _by_score(predictions: Predictions, chosen: np.ndarray) -> np.ndarray:
    """Rows of the chosen ones (bool, N), the lowest score first."""
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(predictions.scores[rows], kind="stable")]


def _picture(section: Section, row: int) -> str:
    pixels = section.pixels(row)
    scale = min(1.0, PICTURE_SIDE / max(pixels.shape[:2]))
    if scale < 1.0:
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    encoded = base64.b64encode(data.tobytes()).decode()
    image = section.predictions.images[row]
    name = image.original_path or image.sha256[:12]
    score = f"score {section.predictions.scores[row]:.4f}"
    details = " · ".join(part for part in (score, image.defect_type, image.source.value) if part)
    return (
        f'<figure><img alt="{escape(name)}" src="data:image/jpeg;base64,{encoded}">'
        f"<figcaption>{escape(name)}<br>{escape(details)}</figcaption></figure>"
    )


def _describe_calibration(calibration: Calibration | None) -> str:
    if calibration is None:
        return "none: no real defects were held out from training that it could be measured on"
    return (
        f"probability = sigmoid(logit / {calibration.temperature:.3f}), measured on {calibration.normals} normals and "
        f"{calibration.defects} real defects that were not trained on, for a line on which half of the parts are "
        "defective"
    )


def _plot_curve(found: Evaluation) -> str:
    def draw(axes: Any) -> None:
        recall = [point.recall for point in found.curve] + [0.0]
        precision = [point.precision for point in found.curve] + [1.0]
        axes.step(recall, precision, where="pre", color=_BLUE)
        for name, point in _own_points(found):
            colour = _RED if point is found.at_threshold else "black"
            axes.plot([point.recall], [point.precision], "o", color=colour, label=name)
        axes.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.legend(loc="lower left")

    return _svg("Precision and recall", draw)


def _plot_histogram(real: Predictions, threshold: Threshold) -> str:
    def draw(axes: Any) -> None:
        for label, name, colour in ((0, "normals", _BLUE), (1, "defects", _RED)):
            scores = real.scores[real.labels == label]
            if len(scores):
                axes.hist(scores, bins=np.linspace(0, 1, 41), alpha=0.6, color=colour, label=name)
        _mark(axes, threshold)
        axes.set(xlabel="score", ylabel="images", yscale="symlog")
        axes.legend(loc="upper center")

    return _svg("Scores, and the threshold", draw)


def _plot_rates(real: Predictions, threshold: Threshold) -> str:
    def draw(axes: Any) -> None:
        grid = np.linspace(0, 1, 201)
        for label, name, colour in ((0, "normals from it on", _BLUE), (1, "defects below", _RED)):
            scores = np.sort(real.scores[real.labels == label])
            if len(scores):
                below = np.searchsorted(scores, grid, side="left") / len(scores)
                axes.plot(grid, below if label else 1.0 - below, color=colour, label=name)
        _mark(axes, threshold)
        axes.set(xlabel="threshold", ylabel="share", ylim=(-0.02, 1.02))
        axes.legend(loc="upper center")

    return _svg("What another threshold would do", draw)


def _mark(axes: Any, threshold: Threshold) -> None:
    """The version's threshold; of two, the lower one dashed."""
    axes.axvline(threshold.value, color="black", linewidth=1)
    if threshold.ok_below is not None:
        axes.axvline(threshold.ok_below, color="black", linewidth=1, linestyle="--")


def _plot_reliability(found: Evaluation) -> str:
    reliability = found.reliability
    assert reliability is not None

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
        axes.plot(
            [one.probability for one in reliability.bins],
            [one.defective for one in reliability.bins],
            "o-",
            color=_BLUE,
        )
        for one in reliability.bins:
            axes.annotate(str(one.images), (one.probability, one.defective), textcoords="offset points", xytext=(4, 4))
        axes.set(xlabel="probability of a defect", ylabel="share that is defective", xlim=(-0.02, 1.02))

    error = f"calibration error {reliability.calibration_error_before:.3f} as scored"
    if reliability.calibration_error is not None:
        error += f", {reliability.calibration_error:.3f} calibrated"
    return _svg(f"Reliability: {error}", draw)


def _plot_losses(losses: Sequence[float]) -> str:
    def draw(axes: Any) -> None:
        values = np.asarray(losses)
        span = max(1, len(values) // 50)
        smooth = np.convolve(values, np.full(span, 1.0 / span), mode="valid")
        axes.plot(np.arange(len(values)) + 1, values, color=_BLUE, alpha=0.3, linewidth=0.8)
        axes.plot(np.arange(len(smooth)) + span, smooth, color=_BLUE)
        axes.set(xlabel="step", ylabel="loss")

    return _svg("Loss of training", draw)


def _svg(title: str, draw: Callable[[Any], None]) -> str:
    """A plot as inline SVG, the same bytes for the same data."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "flawsmith", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(4.4, 3.2), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.set_title(title)
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    text = target.getvalue()
    return f"<figure>{text[text.index('<svg') :]}</figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<tr>{cells}</tr>' if head else ''}{lines}</table>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"[{interval.low:.3f}, {interval.high:.3f}]"
