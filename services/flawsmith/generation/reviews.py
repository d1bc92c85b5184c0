"""What people decide about generated images: decisions are appended, the newest of an image counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from flawsmith.common.errors import FieldViolation, InvalidArgumentError
from flawsmith.common.manifests import BatchManifest, ImageRecord, Manifest, Review
from flawsmith.common.resources import Resources

REVIEWS = "reviews"
"""Events beside a batch."""


class ReviewDecision(Manifest):
    """One decision about images of a batch. images: their sha256. review: accepted or rejected."""

    images: tuple[str, ...]
    review: Review
    decided_by: str
    decide_time: datetime
    reason: str = ""


class ReviewedImage(Manifest):
    """An image of a batch and the last decision about it."""

    record: ImageRecord
    review: Review = Review.PENDING
    decided_by: str = ""
    reason: str = ""


def decide(
    records: Sequence[ImageRecord], images: Sequence[str], review: Review, *, by: str, at: datetime, reason: str
) -> ReviewDecision:
    """A decision about some images of a batch, or about all of them when `images` is empty.

    Raises InvalidArgumentError: UNKNOWN_IMAGES (listing them), INVALID_REVIEW (neither accepted nor rejected).
    """
    if review is Review.PENDING:
        raise InvalidArgumentError(
            "INVALID_REVIEW", "review must be accepted or rejected", fields=[FieldViolation("review", "pending")]
        )
    known = {record.image.sha256 for record in records}
    unknown = [digest for digest in images if digest not in known]
    if unknown:
        raise InvalidArgumentError(
            "UNKNOWN_IMAGES",
            f"the batch has no images {', '.join(unknown)}; list its images",
            fields=[FieldViolation("images", f"{digest} is not in the batch") for digest in unknown],
        )
    chosen = tuple(dict.fromkeys(images)) or tuple(record.image.sha256 for record in records)
    return ReviewDecision(images=chosen, review=review, decided_by=by, decide_time=at, reason=reason)


def reviewed(records: Sequence[ImageRecord], decisions: Sequence[ReviewDecision]) -> list[ReviewedImage]:
    """A batch's images with the newest decision about each; decisions oldest first."""
    newest = {digest: decision for decision in decisions for digest in decision.images}
    found = []
    for record in records:
        decision = newest.get(record.image.sha256)
        if decision is None:
            found.append(ReviewedImage(record=record))
        else:
            found.append(
                ReviewedImage(
                    record=record, review=decision.review, decided_by=decision.decided_by, reason=decision.reason
                )
            )
    return found


def count_reviews(images: Sequence[ReviewedImage]) -> dict[str, int]:
    """How many images are pending, accepted and rejected."""
    counts = Counter(image.review for image in images)
    return {review.value: counts[review] for review in Review}


def reviewed_batch(resources: Resources, name: str) -> tuple[BatchManifest, list[ReviewedImage]]:
    """A batch and what was decided about its images. Raises NotFoundError (RESOURCE_NOT_FOUND)."""
    manifest, _ = resources.get(name, BatchManifest)
    return manifest, reviewed(manifest.images, resources.events(name, REVIEWS, ReviewDecision))
