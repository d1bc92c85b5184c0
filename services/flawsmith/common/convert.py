"""Between protobuf messages and plain values, so that a servicer needs no table of fields.

Enums: `REGIME_FEW_SHOT` of enum `Regime` <-> "few_shot". Timestamps <-> aware datetimes. Bytes stay bytes.
Scalars without presence are left out when they hold the default, so that a model's own defaults apply.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypeVar

from google.protobuf import json_format, struct_pb2, timestamp_pb2
from google.protobuf.message import Message
from pydantic import BaseModel, ValidationError

from flawsmith.common.errors import FieldViolation, InvalidArgumentError

Model = TypeVar("Model", bound=BaseModel)
AnyMessage = TypeVar("AnyMessage", bound=Message)


def to_model(message: Message, model: type[Model], **extra: Any) -> Model:
    """Validate a request as a pydantic model; fields that the model lacks are ignored unless it forbids them.

    extra: values that are not in the request. Raises InvalidArgumentError (INVALID_FIELDS) that lists every
    bad field with its path.
    """
    values = {**to_dict(message), **extra}
    # `import` is a word of Python's: a model calls it otherwise and names it as its alias.
    known = set(model.model_fields) | {field.alias for field in model.model_fields.values() if field.alias}
    try:
        return model.model_validate({name: value for name, value in values.items() if name in known})
    except ValidationError as error:
        raise invalid_fields(error) from error


def invalid_fields(error: ValidationError) -> InvalidArgumentError:
    """A pydantic error as ours: one violation a bad field."""
    fields = [
        FieldViolation(".".join(str(part) for part in entry["loc"]) or "request", entry["msg"])
        for entry in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    listing = "; ".join(f"{violation.field}: {violation.description}" for violation in fields)
    return InvalidArgumentError("INVALID_FIELDS", f"correct these fields: {listing}", fields=fields)


def to_dict(message: Message) -> dict[str, Any]:
    """Fields that are set, by name."""
    return {field.name: _value(field, getattr(message, field.name)) for field, _ in message.ListFields()}


def to_message(values: BaseModel | Mapping[str, Any], cls: type[AnyMessage]) -> AnyMessage:
    """Build a message from a model or a mapping; entries that the message lacks are left out."""
    if isinstance(values, BaseModel):
        values = {name: getattr(values, name) for name in type(values).model_fields}
    message = cls()
    for field in message.DESCRIPTOR.fields:
        value = values.get(field.name)
        if value is not None:
            _set(message, field, value)
    return message


def _value(field: Any, value: Any) -> Any:
    if _is_map(field):
        entry = field.message_type.fields_by_name["value"]
        return {key: _single(entry, item) for key, item in value.items()}
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        return enum_name(field.enum_type, value)
    if isinstance(value, timestamp_pb2.Timestamp):
        return value.ToDatetime(tzinfo=UTC)
    if isinstance(value, struct_pb2.Struct):
        return json_format.MessageToDict(value)
    return to_dict(value) if isinstance(value, Message) else value


def _set(message: Message, field: Any, value: Any) -> None:
    target = getattr(message, field.name)
    if _is_map(field):
        entry = field.message_type.fields_by_name["value"]
        for key, item in value.items():
            key = key.value if isinstance(key, Enum) else key
            if entry.message_type is not None:
                target[key].CopyFrom(_build(item, type(target[key])))
            else:
                target[key] = item
    elif field.is_repeated:
        for item in value:
            if field.message_type is not None:
                added = target.add()
                added.CopyFrom(_build(item, type(added)))
            else:
                target.append(_scalar(field, item))
    elif field.message_type is not None:
        target.CopyFrom(_build(value, type(target)))
        target.SetInParent()
    else:
        setattr(message, field.name, _scalar(field, value))


def _build(value: Any, cls: type[AnyMessage]) -> AnyMessage:
    built: Any
    if isinstance(value, cls):
        return value
    if cls is timestamp_pb2.Timestamp:
        value = datetime.fromisoformat(value) if isinstance(value, str) else value
        built = timestamp_pb2.Timestamp()
        built.FromDatetime(value.astimezone(UTC))
        return built
    if cls is struct_pb2.Struct:
        return json_format.ParseDict(value, cls())
    return to_message(value, cls)


def _scalar(field: Any, value: Any) -> Any:
    if field.enum_type is None:
        return value
    if isinstance(value, int):
        return value
    text = value.value if isinstance(value, Enum) else value
    return field.enum_type.values_by_name[_prefix(field.enum_type) + text.upper()].number


def enum_name(enum: Any, number: int) -> str:
    """`few_shot` for REGIME_FEW_SHOT; the number as text when this build does not know it."""
    known = enum.values_by_number.get(number)
    return str(known.name).removeprefix(_prefix(enum)).lower() if known else str(number)


def _prefix(enum: Any) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(enum.name)).upper() + "_"


def _is_map(field: Any) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)
