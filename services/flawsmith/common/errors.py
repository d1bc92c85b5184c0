"""Domain errors: what went wrong, in which field, and what to do about it.

Domain code raises these; it knows nothing of gRPC. `common.rpc` maps each class to one status code, and
`common.jobs` stores them with the operation that they ended.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FieldViolation:
    """One bad field or file.

    field: the request's field path (`spec.alpha`), or a file's path inside the data set.
    description: what is wrong with it and what would be right.
    """

    field: str
    description: str


class FlawsmithError(Exception):
    """Base of all errors that a user may read.

    reason: UPPER_SNAKE_CASE, stable, for programs. message: a sentence that says what to do, for people.
    fields: every violation found, not only the first. retry_after_s: when trying again makes sense.
    """

    code = "UNKNOWN"

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        fields: tuple[FieldViolation, ...] | list[FieldViolation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.fields = tuple(fields)
        self.retry_after_s = retry_after_s


class InvalidArgumentError(FlawsmithError):
    """The request is wrong whatever the state of the system."""

    code = "INVALID_ARGUMENT"


class NotFoundError(FlawsmithError):
    """A named resource or object does not exist."""

    code = "NOT_FOUND"


class AlreadyExistsError(FlawsmithError):
    """A resource of that name exists and is immutable."""

    code = "ALREADY_EXISTS"


class FailedPreconditionError(FlawsmithError):
    """The request is right but the system's state does not allow it yet (unapproved prompt, no champion)."""

    code = "FAILED_PRECONDITION"


class ResourceExhaustedError(FlawsmithError):
    """A queue is full, or a disk."""

    code = "RESOURCE_EXHAUSTED"


class UnavailableError(FlawsmithError):
    """A dependency (object store, Triton, database) does not answer; trying again later makes sense."""

    code = "UNAVAILABLE"

    def __init__(self, reason: str, message: str, *, retry_after_s: float = 5.0) -> None:
        super().__init__(reason, message, retry_after_s=retry_after_s)


class DeadlineExceededError(FlawsmithError):
    """One part of a call was not done in time; the call goes on."""

    code = "DEADLINE_EXCEEDED"


class DataLossError(FlawsmithError):
    """A stored object is not what its manifest says (sha256 differs)."""

    code = "DATA_LOSS"


class AbortedError(FlawsmithError):
    """The work stopped before its end for a reason of its own (training diverged, gate not passed)."""

    code = "ABORTED"


ERRORS_BY_CODE: dict[str, type[FlawsmithError]] = {
    cls.code: cls
    for cls in (
        InvalidArgumentError,
        NotFoundError,
        AlreadyExistsError,
        FailedPreconditionError,
        ResourceExhaustedError,
        UnavailableError,
        DeadlineExceededError,
        DataLossError,
        AbortedError,
    )
}
