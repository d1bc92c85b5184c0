import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Regime(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REGIME_UNSPECIFIED: _ClassVar[Regime]
    REGIME_ZERO_SHOT: _ClassVar[Regime]
    REGIME_FEW_SHOT: _ClassVar[Regime]
    REGIME_FULL_SHOT: _ClassVar[Regime]

class Split(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SPLIT_UNSPECIFIED: _ClassVar[Split]
    SPLIT_TRAIN: _ClassVar[Split]
    SPLIT_VALIDATION: _ClassVar[Split]
    SPLIT_TEST: _ClassVar[Split]

class Label(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LABEL_UNSPECIFIED: _ClassVar[Label]
    LABEL_NORMAL: _ClassVar[Label]
    LABEL_DEFECT: _ClassVar[Label]

class Source(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SOURCE_UNSPECIFIED: _ClassVar[Source]
    SOURCE_REAL: _ClassVar[Source]
    SOURCE_IN_DISTRIBUTION: _ClassVar[Source]
    SOURCE_OUT_OF_DISTRIBUTION: _ClassVar[Source]
    SOURCE_RECONSTRUCTED: _ClassVar[Source]

class Review(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REVIEW_UNSPECIFIED: _ClassVar[Review]
    REVIEW_PENDING: _ClassVar[Review]
    REVIEW_ACCEPTED: _ClassVar[Review]
    REVIEW_REJECTED: _ClassVar[Review]
REGIME_UNSPECIFIED: Regime
REGIME_ZERO_SHOT: Regime
REGIME_FEW_SHOT: Regime
REGIME_FULL_SHOT: Regime
SPLIT_UNSPECIFIED: Split
SPLIT_TRAIN: Split
SPLIT_VALIDATION: Split
SPLIT_TEST: Split
LABEL_UNSPECIFIED: Label
LABEL_NORMAL: Label
LABEL_DEFECT: Label
SOURCE_UNSPECIFIED: Source
SOURCE_REAL: Source
SOURCE_IN_DISTRIBUTION: Source
SOURCE_OUT_OF_DISTRIBUTION: Source
SOURCE_RECONSTRUCTED: Source
REVIEW_UNSPECIFIED: Review
REVIEW_PENDING: Review
REVIEW_ACCEPTED: Review
REVIEW_REJECTED: Review

class ObjectRef(_message.Message):
    __slots__ = ("uri", "sha256", "size")
    URI_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    uri: str
    sha256: str
    size: int
    def __init__(self, uri: _Optional[str] = ..., sha256: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class ImageSource(_message.Message):
    __slots__ = ("content", "ref")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    REF_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    ref: ObjectRef
    def __init__(self, content: _Optional[bytes] = ..., ref: _Optional[_Union[ObjectRef, _Mapping]] = ...) -> None: ...

class ImageRecord(_message.Message):
    __slots__ = ("image", "mask", "height", "width", "label", "source", "split", "defect_type", "group", "original_path", "parents", "sidecar")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    DEFECT_TYPE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_PATH_FIELD_NUMBER: _ClassVar[int]
    PARENTS_FIELD_NUMBER: _ClassVar[int]
    SIDECAR_FIELD_NUMBER: _ClassVar[int]
    image: ObjectRef
    mask: ObjectRef
    height: int
    width: int
    label: Label
    source: Source
    split: Split
    defect_type: str
    group: str
    original_path: str
    parents: _containers.RepeatedScalarFieldContainer[str]
    sidecar: ObjectRef
    def __init__(self, image: _Optional[_Union[ObjectRef, _Mapping]] = ..., mask: _Optional[_Union[ObjectRef, _Mapping]] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., label: _Optional[_Union[Label, str]] = ..., source: _Optional[_Union[Source, str]] = ..., split: _Optional[_Union[Split, str]] = ..., defect_type: _Optional[str] = ..., group: _Optional[str] = ..., original_path: _Optional[str] = ..., parents: _Optional[_Iterable[str]] = ..., sidecar: _Optional[_Union[ObjectRef, _Mapping]] = ...) -> None: ...

class OperationMetadata(_message.Message):
    __slots__ = ("kind", "target", "state", "stage", "step", "total", "loss", "seconds_left", "queue_position", "message", "create_time", "update_time")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[OperationMetadata.State]
        STATE_QUEUED: _ClassVar[OperationMetadata.State]
        STATE_RUNNING: _ClassVar[OperationMetadata.State]
        STATE_WAITING_FOR_APPROVAL: _ClassVar[OperationMetadata.State]
        STATE_SUCCEEDED: _ClassVar[OperationMetadata.State]
        STATE_FAILED: _ClassVar[OperationMetadata.State]
        STATE_CANCELLED: _ClassVar[OperationMetadata.State]
    STATE_UNSPECIFIED: OperationMetadata.State
    STATE_QUEUED: OperationMetadata.State
    STATE_RUNNING: OperationMetadata.State
    STATE_WAITING_FOR_APPROVAL: OperationMetadata.State
    STATE_SUCCEEDED: OperationMetadata.State
    STATE_FAILED: OperationMetadata.State
    STATE_CANCELLED: OperationMetadata.State
    KIND_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    kind: str
    target: str
    state: OperationMetadata.State
    stage: str
    step: int
    total: int
    loss: float
    seconds_left: float
    queue_position: int
    message: str
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    def __init__(self, kind: _Optional[str] = ..., target: _Optional[str] = ..., state: _Optional[_Union[OperationMetadata.State, str]] = ..., stage: _Optional[str] = ..., step: _Optional[int] = ..., total: _Optional[int] = ..., loss: _Optional[float] = ..., seconds_left: _Optional[float] = ..., queue_position: _Optional[int] = ..., message: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
