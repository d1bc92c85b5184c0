import datetime

from flawsmith.common.v1 import common_pb2 as _common_pb2
from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateUploadRequest(_message.Message):
    __slots__ = ("paths", "prefix")
    PATHS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    paths: _containers.RepeatedScalarFieldContainer[str]
    prefix: str
    def __init__(self, paths: _Optional[_Iterable[str]] = ..., prefix: _Optional[str] = ...) -> None: ...

class CreateUploadResponse(_message.Message):
    __slots__ = ("prefix", "urls")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    URLS_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    urls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, prefix: _Optional[str] = ..., urls: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateDownloadRequest(_message.Message):
    __slots__ = ("objects",)
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[_common_pb2.ObjectRef]
    def __init__(self, objects: _Optional[_Iterable[_Union[_common_pb2.ObjectRef, _Mapping]]] = ...) -> None: ...

class CreateDownloadResponse(_message.Message):
    __slots__ = ("urls",)
    URLS_FIELD_NUMBER: _ClassVar[int]
    urls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, urls: _Optional[_Iterable[str]] = ...) -> None: ...

class ImportImagesRequest(_message.Message):
    __slots__ = ("parent", "import_id", "prefix", "validation_share", "seed", "licence", "request_id")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    IMPORT_ID_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_SHARE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    import_id: str
    prefix: str
    validation_share: float
    seed: int
    licence: str
    request_id: str
    def __init__(self, parent: _Optional[str] = ..., import_id: _Optional[str] = ..., prefix: _Optional[str] = ..., validation_share: _Optional[float] = ..., seed: _Optional[int] = ..., licence: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class SplitCounts(_message.Message):
    __slots__ = ("normal", "real_defect", "in_distribution", "out_of_distribution", "reconstructed")
    NORMAL_FIELD_NUMBER: _ClassVar[int]
    REAL_DEFECT_FIELD_NUMBER: _ClassVar[int]
    IN_DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    RECONSTRUCTED_FIELD_NUMBER: _ClassVar[int]
    normal: int
    real_defect: int
    in_distribution: int
    out_of_distribution: int
    reconstructed: int
    def __init__(self, normal: _Optional[int] = ..., real_defect: _Optional[int] = ..., in_distribution: _Optional[int] = ..., out_of_distribution: _Optional[int] = ..., reconstructed: _Optional[int] = ...) -> None: ...

class Import(_message.Message):
    __slots__ = ("name", "manifest", "layout", "split_rule", "counts", "create_time")
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: SplitCounts
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[SplitCounts, _Mapping]] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    SPLIT_RULE_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    manifest: _common_pb2.ObjectRef
    layout: str
    split_rule: str
    counts: _containers.MessageMap[str, SplitCounts]
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., manifest: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., layout: _Optional[str] = ..., split_rule: _Optional[str] = ..., counts: _Optional[_Mapping[str, SplitCounts]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetImportRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListImportsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListImportsResponse(_message.Message):
    __slots__ = ("imports", "next_page_token")
    IMPORTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    imports: _containers.RepeatedCompositeFieldContainer[Import]
    next_page_token: str
    def __init__(self, imports: _Optional[_Iterable[_Union[Import, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Product(_message.Message):
    __slots__ = ("name", "review_required")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVIEW_REQUIRED_FIELD_NUMBER: _ClassVar[int]
    name: str
    review_required: bool
    def __init__(self, name: _Optional[str] = ..., review_required: _Optional[bool] = ...) -> None: ...

class UpdateProductRequest(_message.Message):
    __slots__ = ("name", "review_required")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVIEW_REQUIRED_FIELD_NUMBER: _ClassVar[int]
    name: str
    review_required: bool
    def __init__(self, name: _Optional[str] = ..., review_required: _Optional[bool] = ...) -> None: ...

class ListProductsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListProductsResponse(_message.Message):
    __slots__ = ("products", "next_page_token")
    PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    products: _containers.RepeatedCompositeFieldContainer[Product]
    next_page_token: str
    def __init__(self, products: _Optional[_Iterable[_Union[Product, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GenerationOptions(_message.Message):
    __slots__ = ("adapter", "base_model", "prompts", "max_steps", "alpha", "steps", "guidance", "height", "width", "strategy", "preset", "foreground", "masks", "without_adapter", "tuning_preset", "flips")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    PRESET_FIELD_NUMBER: _ClassVar[int]
    FOREGROUND_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_ADAPTER_FIELD_NUMBER: _ClassVar[int]
    TUNING_PRESET_FIELD_NUMBER: _ClassVar[int]
    FLIPS_FIELD_NUMBER: _ClassVar[int]
    adapter: str
    base_model: str
    prompts: _containers.RepeatedScalarFieldContainer[str]
    max_steps: int
    alpha: float
    steps: int
    guidance: float
    height: int
    width: int
    strategy: str
    preset: str
    foreground: str
    masks: str
    without_adapter: bool
    tuning_preset: str
    flips: str
    def __init__(self, adapter: _Optional[str] = ..., base_model: _Optional[str] = ..., prompts: _Optional[_Iterable[str]] = ..., max_steps: _Optional[int] = ..., alpha: _Optional[float] = ..., steps: _Optional[int] = ..., guidance: _Optional[float] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., strategy: _Optional[str] = ..., preset: _Optional[str] = ..., foreground: _Optional[str] = ..., masks: _Optional[str] = ..., without_adapter: _Optional[bool] = ..., tuning_preset: _Optional[str] = ..., flips: _Optional[str] = ...) -> None: ...

class RequestDatasetRequest(_message.Message):
    __slots__ = ("parent", "dataset_id", "regime", "n_aug", "in_distribution_share", "review_required", "generation", "augmentation_method", "seed", "request_id")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    IMPORT_FIELD_NUMBER: _ClassVar[int]
    REGIME_FIELD_NUMBER: _ClassVar[int]
    N_AUG_FIELD_NUMBER: _ClassVar[int]
    IN_DISTRIBUTION_SHARE_FIELD_NUMBER: _ClassVar[int]
    REVIEW_REQUIRED_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    AUGMENTATION_METHOD_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    dataset_id: str
    regime: _common_pb2.Regime
    n_aug: int
    in_distribution_share: float
    review_required: bool
    generation: GenerationOptions
    augmentation_method: str
    seed: int
    request_id: str
    def __init__(self, parent: _Optional[str] = ..., dataset_id: _Optional[str] = ..., regime: _Optional[_Union[_common_pb2.Regime, str]] = ..., n_aug: _Optional[int] = ..., in_distribution_share: _Optional[float] = ..., review_required: _Optional[bool] = ..., generation: _Optional[_Union[GenerationOptions, _Mapping]] = ..., augmentation_method: _Optional[str] = ..., seed: _Optional[int] = ..., request_id: _Optional[str] = ..., **kwargs) -> None: ...

class AssembleDatasetRequest(_message.Message):
    __slots__ = ("parent", "dataset_id", "regime", "batches", "review_required", "seed", "request_id")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    DATASET_ID_FIELD_NUMBER: _ClassVar[int]
    IMPORT_FIELD_NUMBER: _ClassVar[int]
    REGIME_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    REVIEW_REQUIRED_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    dataset_id: str
    regime: _common_pb2.Regime
    batches: _containers.RepeatedCompositeFieldContainer[_common_pb2.ObjectRef]
    review_required: _containers.RepeatedScalarFieldContainer[str]
    seed: int
    request_id: str
    def __init__(self, parent: _Optional[str] = ..., dataset_id: _Optional[str] = ..., regime: _Optional[_Union[_common_pb2.Regime, str]] = ..., batches: _Optional[_Iterable[_Union[_common_pb2.ObjectRef, _Mapping]]] = ..., review_required: _Optional[_Iterable[str]] = ..., seed: _Optional[int] = ..., request_id: _Optional[str] = ..., **kwargs) -> None: ...

class LeftOut(_message.Message):
    __slots__ = ("batch", "rejected", "pending")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    batch: str
    rejected: int
    pending: int
    def __init__(self, batch: _Optional[str] = ..., rejected: _Optional[int] = ..., pending: _Optional[int] = ...) -> None: ...

class Dataset(_message.Message):
    __slots__ = ("name", "manifest", "regime", "counts", "inputs", "adapter", "create_time", "left_out")
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: SplitCounts
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[SplitCounts, _Mapping]] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    REGIME_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    name: str
    manifest: _common_pb2.ObjectRef
    regime: _common_pb2.Regime
    counts: _containers.MessageMap[str, SplitCounts]
    inputs: _containers.RepeatedCompositeFieldContainer[_common_pb2.ObjectRef]
    adapter: _common_pb2.ObjectRef
    create_time: _timestamp_pb2.Timestamp
    left_out: _containers.RepeatedCompositeFieldContainer[LeftOut]
    def __init__(self, name: _Optional[str] = ..., manifest: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., regime: _Optional[_Union[_common_pb2.Regime, str]] = ..., counts: _Optional[_Mapping[str, SplitCounts]] = ..., inputs: _Optional[_Iterable[_Union[_common_pb2.ObjectRef, _Mapping]]] = ..., adapter: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., left_out: _Optional[_Iterable[_Union[LeftOut, _Mapping]]] = ...) -> None: ...

class GetDatasetRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListDatasetsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDatasetsResponse(_message.Message):
    __slots__ = ("datasets", "next_page_token")
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[Dataset]
    next_page_token: str
    def __init__(self, datasets: _Optional[_Iterable[_Union[Dataset, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListDatasetImagesRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token", "split", "source")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    split: _common_pb2.Split
    source: _common_pb2.Source
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., split: _Optional[_Union[_common_pb2.Split, str]] = ..., source: _Optional[_Union[_common_pb2.Source, str]] = ...) -> None: ...

class ListDatasetImagesResponse(_message.Message):
    __slots__ = ("images", "next_page_token")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[_common_pb2.ImageRecord]
    next_page_token: str
    def __init__(self, images: _Optional[_Iterable[_Union[_common_pb2.ImageRecord, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ValidateDatasetRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ValidateDatasetResponse(_message.Message):
    __slots__ = ("problems", "checked_objects")
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    CHECKED_OBJECTS_FIELD_NUMBER: _ClassVar[int]
    problems: _containers.RepeatedScalarFieldContainer[str]
    checked_objects: int
    def __init__(self, problems: _Optional[_Iterable[str]] = ..., checked_objects: _Optional[int] = ...) -> None: ...
