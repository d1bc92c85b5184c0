"""Domain errors as google.rpc.Status, and back: what servers send and clients read."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from flawsmith.common.errors import ERRORS_BY_CODE, FieldViolation, FlawsmithError

DOMAIN = "flawsmith"


def status_of(error: FlawsmithError) -> status_pb2.Status:
    """A domain error as google.rpc.Status with ErrorInfo, and BadRequest or RetryInfo where they apply."""
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if error.fields:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
                    for v in error.fields
                ]
            )
        )
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(error.retry_after_s * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code_pb2.Code.Value(error.code), message=error.message, details=packed)


def error_of(status: status_pb2.Status) -> FlawsmithError:
    """The domain error that a status carries; callers of our services get what the servicer raised."""
    cls = ERRORS_BY_CODE.get(code_pb2.Code.Name(status.code), FlawsmithError)
    error = cls(code_pb2.Code.Name(status.code), status.message)
    for packed in status.details:
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if packed.Unpack(info):
            error.reason = info.reason
        elif packed.Unpack(bad):
            error.fields = tuple(FieldViolation(v.field, v.description) for v in bad.field_violations)
        elif packed.Unpack(retry):
            error.retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    return error


def error_of_call(error: grpc.RpcError) -> FlawsmithError:
    """What a failed call of one of our services raised there."""
    status = rpc_status.from_call(error)
    if status is not None:
        return error_of(status)
    return error_of(status_pb2.Status(code=error.code().value[0], message=error.details() or ""))


def internal_status() -> status_pb2.Status:
    """What callers learn of an error that nobody foresaw: nothing of the inside."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN))
    return status_pb2.Status(
        code=code_pb2.INTERNAL, message="internal error; the service's log has the details", details=[detail]
    )
