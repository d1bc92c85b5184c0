"""What Prometheus sees of every answer. Labels: ids of product, classifier and version, and the variant's precision."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_LABELS = ["product", "classifier", "version", "precision"]

SCORES = Histogram(
    "flawsmith_classifier_score", "Probability of a defect, as the network puts it.", _LABELS,
    buckets=(0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0),
)  # fmt: skip
VERDICTS = Counter("flawsmith_classifier_verdicts_total", "Answers by verdict.", [*_LABELS, "verdict"])
DRIFT = Gauge(
    "flawsmith_classifier_embedding_drift",
    "Distance of the champion's latest images from the product's normals, over the limit that one image in a thousand "
    "exceeds without drift (see drift.py).",
    _LABELS,
)
SHADOW = Counter(
    "flawsmith_classifier_shadow_total",
    "Images for the candidate by what became of them: agreed, disagreed, dropped, failed.",
    [*_LABELS, "outcome"],
)


def labels_of(version: str, precision: str) -> tuple[str, str, str, str]:
    """version: `products/{p}/classifiers/{c}/versions/{v}`."""
    _, product, _, classifier, _, identifier = version.split("/")
    return product, classifier, identifier, precision
