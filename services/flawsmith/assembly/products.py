"""What a product requires of every data set, whatever a request says: decisions are appended, the newest counts."""

from __future__ import annotations

from datetime import datetime

from flawsmith.common.manifests import Manifest
from flawsmith.common.resources import Resources

REQUIREMENTS = "requirements"
"""Events beside a product."""


class Requirement(Manifest):
    """One decision. review_required: whether of generated batches only images that a person accepted are used."""

    review_required: bool
    decided_by: str
    decide_time: datetime


def requires_review(resources: Resources, product: str) -> bool:
    """Whether a product requires review; not before somebody decided so."""
    decisions = resources.events(product, REQUIREMENTS, Requirement)
    return bool(decisions) and decisions[-1].review_required
