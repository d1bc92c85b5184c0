import datetime

from flawsmith.common.v1 import common_pb2 as _common_pb2
from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Method(_message.Message):
    __slots__ = ("name", "description", "parameters_schema")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    parameters_schema: _struct_pb2.Struct
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., parameters_schema: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class ListMethodsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListMethodsResponse(_message.Message):
    __slots__ = ("methods", "next_page_token")
    METHODS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    methods: _containers.RepeatedCompositeFieldContainer[Method]
    next_page_token: str
    def __init__(self, methods: _Optional[_Iterable[_Union[Method, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class AugmentImageRequest(_message.Message):
    __slots__ = ("image", "method", "parameters", "seed", "texture_prefix", "generated_batch")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TEXTURE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    GENERATED_BATCH_FIELD_NUMBER: _ClassVar[int]
    image: _common_pb2.ImageSource
    method: str
    parameters: _struct_pb2.Struct
    seed: int
    texture_prefix: str
    generated_batch: _common_pb2.ObjectRef
    def __init__(self, image: _Optional[_Union[_common_pb2.ImageSource, _Mapping]] = ..., method: _Optional[str] = ..., parameters: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., seed: _Optional[int] = ..., texture_prefix: _Optional[str] = ..., generated_batch: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ...) -> None: ...

class AugmentImageResponse(_message.Message):
    __slots__ = ("image", "mask", "drawn")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    DRAWN_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    mask: bytes
    drawn: _struct_pb2.Struct
    def __init__(self, image: _Optional[bytes] = ..., mask: _Optional[bytes] = ..., drawn: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class PreviewPlacementRequest(_message.Message):
    __slots__ = ("image", "method", "parameters", "seed", "count")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    image: _common_pb2.ImageSource
    method: str
    parameters: _struct_pb2.Struct
    seed: int
    count: int
    def __init__(self, image: _Optional[_Union[_common_pb2.ImageSource, _Mapping]] = ..., method: _Optional[str] = ..., parameters: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., seed: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class PreviewPlacementResponse(_message.Message):
    __slots__ = ("allowed", "overlay", "masks")
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    OVERLAY_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    allowed: bytes
    overlay: bytes
    masks: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, allowed: _Optional[bytes] = ..., overlay: _Optional[bytes] = ..., masks: _Optional[_Iterable[bytes]] = ...) -> None: ...

class AugmentImagesRequest(_message.Message):
    __slots__ = ("parent", "batch_id", "import_manifest", "method", "parameters", "count", "seed", "request_id", "texture_prefix", "generated_batch")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    IMPORT_MANIFEST_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TEXTURE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    GENERATED_BATCH_FIELD_NUMBER: _ClassVar[int]
    parent: str
    batch_id: str
    import_manifest: _common_pb2.ObjectRef
    method: str
    parameters: _struct_pb2.Struct
    count: int
    seed: int
    request_id: str
    texture_prefix: str
    generated_batch: _common_pb2.ObjectRef
    def __init__(self, parent: _Optional[str] = ..., batch_id: _Optional[str] = ..., import_manifest: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., method: _Optional[str] = ..., parameters: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., count: _Optional[int] = ..., seed: _Optional[int] = ..., request_id: _Optional[str] = ..., texture_prefix: _Optional[str] = ..., generated_batch: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ...) -> None: ...

class AugmentedBatch(_message.Message):
    __slots__ = ("name", "manifest", "image_count", "method", "seed", "create_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    IMAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    manifest: _common_pb2.ObjectRef
    image_count: int
    method: str
    seed: int
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., manifest: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., image_count: _Optional[int] = ..., method: _Optional[str] = ..., seed: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetAugmentedBatchRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListAugmentedBatchesRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAugmentedBatchesResponse(_message.Message):
    __slots__ = ("augmented_batches", "next_page_token")
    AUGMENTED_BATCHES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    augmented_batches: _containers.RepeatedCompositeFieldContainer[AugmentedBatch]
    next_page_token: str
    def __init__(self, augmented_batches: _Optional[_Iterable[_Union[AugmentedBatch, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
