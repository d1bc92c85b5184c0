import datetime

from flawsmith.common.v1 import common_pb2 as _common_pb2
from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BaseModel(_message.Message):
    __slots__ = ("id", "origin", "licence", "licence_limits", "capabilities", "installed", "sha256", "good_for", "repository", "revision", "licence_url", "commercial_use", "architecture", "download_bytes", "source", "stored_bytes", "variant")
    ID_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    LICENCE_LIMITS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    INSTALLED_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    GOOD_FOR_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LICENCE_URL_FIELD_NUMBER: _ClassVar[int]
    COMMERCIAL_USE_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    id: str
    origin: str
    licence: str
    licence_limits: str
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    installed: bool
    sha256: str
    good_for: str
    repository: str
    revision: str
    licence_url: str
    commercial_use: bool
    architecture: str
    download_bytes: int
    source: str
    stored_bytes: int
    variant: str
    def __init__(self, id: _Optional[str] = ..., origin: _Optional[str] = ..., licence: _Optional[str] = ..., licence_limits: _Optional[str] = ..., capabilities: _Optional[_Iterable[str]] = ..., installed: _Optional[bool] = ..., sha256: _Optional[str] = ..., good_for: _Optional[str] = ..., repository: _Optional[str] = ..., revision: _Optional[str] = ..., licence_url: _Optional[str] = ..., commercial_use: _Optional[bool] = ..., architecture: _Optional[str] = ..., download_bytes: _Optional[int] = ..., source: _Optional[str] = ..., stored_bytes: _Optional[int] = ..., variant: _Optional[str] = ...) -> None: ...

class PullBaseModelRequest(_message.Message):
    __slots__ = ("id", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    request_id: str
    def __init__(self, id: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class ImportBaseModelRequest(_message.Message):
    __slots__ = ("id", "prefix", "licence", "licence_url", "licence_limits", "commercial_use", "origin", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    LICENCE_URL_FIELD_NUMBER: _ClassVar[int]
    LICENCE_LIMITS_FIELD_NUMBER: _ClassVar[int]
    COMMERCIAL_USE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    prefix: str
    licence: str
    licence_url: str
    licence_limits: str
    commercial_use: bool
    origin: str
    request_id: str
    def __init__(self, id: _Optional[str] = ..., prefix: _Optional[str] = ..., licence: _Optional[str] = ..., licence_url: _Optional[str] = ..., licence_limits: _Optional[str] = ..., commercial_use: _Optional[bool] = ..., origin: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class VerifyBaseModelRequest(_message.Message):
    __slots__ = ("id", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    request_id: str
    def __init__(self, id: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class BaseModelVerification(_message.Message):
    __slots__ = ("id", "sha256", "file_count", "bytes", "problems")
    class Problem(_message.Message):
        __slots__ = ("path", "problem")
        PATH_FIELD_NUMBER: _ClassVar[int]
        PROBLEM_FIELD_NUMBER: _ClassVar[int]
        path: str
        problem: str
        def __init__(self, path: _Optional[str] = ..., problem: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    id: str
    sha256: str
    file_count: int
    bytes: int
    problems: _containers.RepeatedCompositeFieldContainer[BaseModelVerification.Problem]
    def __init__(self, id: _Optional[str] = ..., sha256: _Optional[str] = ..., file_count: _Optional[int] = ..., bytes: _Optional[int] = ..., problems: _Optional[_Iterable[_Union[BaseModelVerification.Problem, _Mapping]]] = ...) -> None: ...

class ListBaseModelsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListBaseModelsResponse(_message.Message):
    __slots__ = ("base_models", "next_page_token")
    BASE_MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    base_models: _containers.RepeatedCompositeFieldContainer[BaseModel]
    next_page_token: str
    def __init__(self, base_models: _Optional[_Iterable[_Union[BaseModel, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class FineTuneConfig(_message.Message):
    __slots__ = ("base_model", "algorithm", "rank", "rank_alpha", "conv_rank", "conv_alpha", "unet_learning_rate", "text_encoder_learning_rate", "epochs", "max_steps", "batch_size", "gradient_accumulation", "repeats", "regularization_images", "prior_weight", "min_snr_gamma", "clip_skip", "instance_prompt", "class_prompt", "height", "width", "alpha", "regularization_steps", "precision", "noise_offset", "leak_start", "preset", "optimizer", "ema_decay", "resolution", "bucket_step", "flips", "preview_every", "defect_views")
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    RANK_ALPHA_FIELD_NUMBER: _ClassVar[int]
    CONV_RANK_FIELD_NUMBER: _ClassVar[int]
    CONV_ALPHA_FIELD_NUMBER: _ClassVar[int]
    UNET_LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    TEXT_ENCODER_LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_ACCUMULATION_FIELD_NUMBER: _ClassVar[int]
    REPEATS_FIELD_NUMBER: _ClassVar[int]
    REGULARIZATION_IMAGES_FIELD_NUMBER: _ClassVar[int]
    PRIOR_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    MIN_SNR_GAMMA_FIELD_NUMBER: _ClassVar[int]
    CLIP_SKIP_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    CLASS_PROMPT_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    REGULARIZATION_STEPS_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    NOISE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    LEAK_START_FIELD_NUMBER: _ClassVar[int]
    PRESET_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    EMA_DECAY_FIELD_NUMBER: _ClassVar[int]
    RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    BUCKET_STEP_FIELD_NUMBER: _ClassVar[int]
    FLIPS_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_EVERY_FIELD_NUMBER: _ClassVar[int]
    DEFECT_VIEWS_FIELD_NUMBER: _ClassVar[int]
    base_model: str
    algorithm: str
    rank: int
    rank_alpha: float
    conv_rank: int
    conv_alpha: float
    unet_learning_rate: float
    text_encoder_learning_rate: float
    epochs: int
    max_steps: int
    batch_size: int
    gradient_accumulation: int
    repeats: int
    regularization_images: int
    prior_weight: float
    min_snr_gamma: float
    clip_skip: int
    instance_prompt: str
    class_prompt: str
    height: int
    width: int
    alpha: float
    regularization_steps: int
    precision: str
    noise_offset: float
    leak_start: float
    preset: str
    optimizer: str
    ema_decay: float
    resolution: int
    bucket_step: int
    flips: str
    preview_every: int
    defect_views: int
    def __init__(self, base_model: _Optional[str] = ..., algorithm: _Optional[str] = ..., rank: _Optional[int] = ..., rank_alpha: _Optional[float] = ..., conv_rank: _Optional[int] = ..., conv_alpha: _Optional[float] = ..., unet_learning_rate: _Optional[float] = ..., text_encoder_learning_rate: _Optional[float] = ..., epochs: _Optional[int] = ..., max_steps: _Optional[int] = ..., batch_size: _Optional[int] = ..., gradient_accumulation: _Optional[int] = ..., repeats: _Optional[int] = ..., regularization_images: _Optional[int] = ..., prior_weight: _Optional[float] = ..., min_snr_gamma: _Optional[float] = ..., clip_skip: _Optional[int] = ..., instance_prompt: _Optional[str] = ..., class_prompt: _Optional[str] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., alpha: _Optional[float] = ..., regularization_steps: _Optional[int] = ..., precision: _Optional[str] = ..., noise_offset: _Optional[float] = ..., leak_start: _Optional[float] = ..., preset: _Optional[str] = ..., optimizer: _Optional[str] = ..., ema_decay: _Optional[float] = ..., resolution: _Optional[int] = ..., bucket_step: _Optional[int] = ..., flips: _Optional[str] = ..., preview_every: _Optional[int] = ..., defect_views: _Optional[int] = ...) -> None: ...

class FineTuneAdapterRequest(_message.Message):
    __slots__ = ("parent", "adapter_id", "import_manifest", "regime", "config", "seed", "request_id")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    IMPORT_MANIFEST_FIELD_NUMBER: _ClassVar[int]
    REGIME_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    adapter_id: str
    import_manifest: _common_pb2.ObjectRef
    regime: _common_pb2.Regime
    config: FineTuneConfig
    seed: int
    request_id: str
    def __init__(self, parent: _Optional[str] = ..., adapter_id: _Optional[str] = ..., import_manifest: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., regime: _Optional[_Union[_common_pb2.Regime, str]] = ..., config: _Optional[_Union[FineTuneConfig, _Mapping]] = ..., seed: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class AdapterPreview(_message.Message):
    __slots__ = ("step", "image")
    STEP_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    step: int
    image: _common_pb2.ObjectRef
    def __init__(self, step: _Optional[int] = ..., image: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ...) -> None: ...

class Adapter(_message.Message):
    __slots__ = ("name", "manifest", "base_model", "regime", "algorithm", "weights", "alpha", "instance_prompt", "steps", "final_loss", "preview", "create_time", "losses", "loss_curve", "previews", "imported_from")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    REGIME_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    FINAL_LOSS_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    LOSS_CURVE_FIELD_NUMBER: _ClassVar[int]
    PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    IMPORTED_FROM_FIELD_NUMBER: _ClassVar[int]
    name: str
    manifest: _common_pb2.ObjectRef
    base_model: str
    regime: _common_pb2.Regime
    algorithm: str
    weights: _common_pb2.ObjectRef
    alpha: float
    instance_prompt: str
    steps: int
    final_loss: float
    preview: _common_pb2.ObjectRef
    create_time: _timestamp_pb2.Timestamp
    losses: _common_pb2.ObjectRef
    loss_curve: _common_pb2.ObjectRef
    previews: _containers.RepeatedCompositeFieldContainer[AdapterPreview]
    imported_from: _common_pb2.ObjectRef
    def __init__(self, name: _Optional[str] = ..., manifest: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., base_model: _Optional[str] = ..., regime: _Optional[_Union[_common_pb2.Regime, str]] = ..., algorithm: _Optional[str] = ..., weights: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., alpha: _Optional[float] = ..., instance_prompt: _Optional[str] = ..., steps: _Optional[int] = ..., final_loss: _Optional[float] = ..., preview: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., losses: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., loss_curve: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., previews: _Optional[_Iterable[_Union[AdapterPreview, _Mapping]]] = ..., imported_from: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ...) -> None: ...

class ImportAdapterRequest(_message.Message):
    __slots__ = ("parent", "adapter_id", "base_model", "file", "regime", "alpha", "instance_prompt", "class_prompt", "clip_skip", "height", "width", "request_id", "files")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    REGIME_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    CLASS_PROMPT_FIELD_NUMBER: _ClassVar[int]
    CLIP_SKIP_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    parent: str
    adapter_id: str
    base_model: str
    file: _common_pb2.ObjectRef
    regime: _common_pb2.Regime
    alpha: float
    instance_prompt: str
    class_prompt: str
    clip_skip: int
    height: int
    width: int
    request_id: str
    files: _containers.RepeatedCompositeFieldContainer[AdapterFolderFile]
    def __init__(self, parent: _Optional[str] = ..., adapter_id: _Optional[str] = ..., base_model: _Optional[str] = ..., file: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., regime: _Optional[_Union[_common_pb2.Regime, str]] = ..., alpha: _Optional[float] = ..., instance_prompt: _Optional[str] = ..., class_prompt: _Optional[str] = ..., clip_skip: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., request_id: _Optional[str] = ..., files: _Optional[_Iterable[_Union[AdapterFolderFile, _Mapping]]] = ...) -> None: ...

class AdapterFolderFile(_message.Message):
    __slots__ = ("path", "object")
    PATH_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    path: str
    object: _common_pb2.ObjectRef
    def __init__(self, path: _Optional[str] = ..., object: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ...) -> None: ...

class ExportAdapterRequest(_message.Message):
    __slots__ = ("name", "format", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    format: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., format: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class AdapterFile(_message.Message):
    __slots__ = ("adapter", "format", "file", "files")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    adapter: str
    format: str
    file: _common_pb2.ObjectRef
    files: _containers.RepeatedCompositeFieldContainer[AdapterFolderFile]
    def __init__(self, adapter: _Optional[str] = ..., format: _Optional[str] = ..., file: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., files: _Optional[_Iterable[_Union[AdapterFolderFile, _Mapping]]] = ...) -> None: ...

class GetAdapterRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListAdaptersRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAdaptersResponse(_message.Message):
    __slots__ = ("adapters", "next_page_token")
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedCompositeFieldContainer[Adapter]
    next_page_token: str
    def __init__(self, adapters: _Optional[_Iterable[_Union[Adapter, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Prompt(_message.Message):
    __slots__ = ("name", "text", "negative_text", "state", "decided_by", "decide_time", "reason", "create_time", "version", "revises", "revised_as", "previews", "previewed_with", "author")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Prompt.State]
        STATE_DRAFT: _ClassVar[Prompt.State]
        STATE_APPROVED: _ClassVar[Prompt.State]
        STATE_REJECTED: _ClassVar[Prompt.State]
        STATE_PREVIEWED: _ClassVar[Prompt.State]
        STATE_REVISED: _ClassVar[Prompt.State]
    STATE_UNSPECIFIED: Prompt.State
    STATE_DRAFT: Prompt.State
    STATE_APPROVED: Prompt.State
    STATE_REJECTED: Prompt.State
    STATE_PREVIEWED: Prompt.State
    STATE_REVISED: Prompt.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_TEXT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DECIDED_BY_FIELD_NUMBER: _ClassVar[int]
    DECIDE_TIME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REVISES_FIELD_NUMBER: _ClassVar[int]
    REVISED_AS_FIELD_NUMBER: _ClassVar[int]
    PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    PREVIEWED_WITH_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    name: str
    text: str
    negative_text: str
    state: Prompt.State
    decided_by: str
    decide_time: _timestamp_pb2.Timestamp
    reason: str
    create_time: _timestamp_pb2.Timestamp
    version: int
    revises: str
    revised_as: str
    previews: _containers.RepeatedCompositeFieldContainer[_common_pb2.ObjectRef]
    previewed_with: str
    author: str
    def __init__(self, name: _Optional[str] = ..., text: _Optional[str] = ..., negative_text: _Optional[str] = ..., state: _Optional[_Union[Prompt.State, str]] = ..., decided_by: _Optional[str] = ..., decide_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., version: _Optional[int] = ..., revises: _Optional[str] = ..., revised_as: _Optional[str] = ..., previews: _Optional[_Iterable[_Union[_common_pb2.ObjectRef, _Mapping]]] = ..., previewed_with: _Optional[str] = ..., author: _Optional[str] = ...) -> None: ...

class CreatePromptRequest(_message.Message):
    __slots__ = ("parent", "prompt_id", "text", "negative_text")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_TEXT_FIELD_NUMBER: _ClassVar[int]
    parent: str
    prompt_id: str
    text: str
    negative_text: str
    def __init__(self, parent: _Optional[str] = ..., prompt_id: _Optional[str] = ..., text: _Optional[str] = ..., negative_text: _Optional[str] = ...) -> None: ...

class GetPromptRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListPromptsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPromptsResponse(_message.Message):
    __slots__ = ("prompts", "next_page_token")
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    prompts: _containers.RepeatedCompositeFieldContainer[Prompt]
    next_page_token: str
    def __init__(self, prompts: _Optional[_Iterable[_Union[Prompt, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CheckPromptsRequest(_message.Message):
    __slots__ = ("parent", "adapter", "base_model", "texts")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    parent: str
    adapter: str
    base_model: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, parent: _Optional[str] = ..., adapter: _Optional[str] = ..., base_model: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ...) -> None: ...

class CheckPromptsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PreviewPromptRequest(_message.Message):
    __slots__ = ("name", "adapter", "base_model", "alpha", "count", "height", "width", "steps", "guidance", "seed", "request_id", "clip_skip")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CLIP_SKIP_FIELD_NUMBER: _ClassVar[int]
    name: str
    adapter: str
    base_model: str
    alpha: float
    count: int
    height: int
    width: int
    steps: int
    guidance: float
    seed: int
    request_id: str
    clip_skip: int
    def __init__(self, name: _Optional[str] = ..., adapter: _Optional[str] = ..., base_model: _Optional[str] = ..., alpha: _Optional[float] = ..., count: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., steps: _Optional[int] = ..., guidance: _Optional[float] = ..., seed: _Optional[int] = ..., request_id: _Optional[str] = ..., clip_skip: _Optional[int] = ...) -> None: ...

class RevisePromptRequest(_message.Message):
    __slots__ = ("name", "text", "negative_text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    text: str
    negative_text: str
    def __init__(self, name: _Optional[str] = ..., text: _Optional[str] = ..., negative_text: _Optional[str] = ...) -> None: ...

class DecidePromptRequest(_message.Message):
    __slots__ = ("name", "state", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: Prompt.State
    reason: str
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[Prompt.State, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class TextToImage(_message.Message):
    __slots__ = ("prompts",)
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    prompts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, prompts: _Optional[_Iterable[str]] = ...) -> None: ...

class Inpaint(_message.Message):
    __slots__ = ("prompts", "import_manifest", "preset", "regime", "foreground", "masks", "defect_types", "min_area", "max_area", "strength", "padding", "feather", "min_change", "max_redraws", "negative_text", "max_angle")
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    IMPORT_MANIFEST_FIELD_NUMBER: _ClassVar[int]
    PRESET_FIELD_NUMBER: _ClassVar[int]
    REGIME_FIELD_NUMBER: _ClassVar[int]
    FOREGROUND_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    DEFECT_TYPES_FIELD_NUMBER: _ClassVar[int]
    MIN_AREA_FIELD_NUMBER: _ClassVar[int]
    MAX_AREA_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    FEATHER_FIELD_NUMBER: _ClassVar[int]
    MIN_CHANGE_FIELD_NUMBER: _ClassVar[int]
    MAX_REDRAWS_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_TEXT_FIELD_NUMBER: _ClassVar[int]
    MAX_ANGLE_FIELD_NUMBER: _ClassVar[int]
    prompts: _containers.RepeatedScalarFieldContainer[str]
    import_manifest: _common_pb2.ObjectRef
    preset: str
    regime: _common_pb2.Regime
    foreground: str
    masks: str
    defect_types: _containers.RepeatedScalarFieldContainer[str]
    min_area: float
    max_area: float
    strength: float
    padding: int
    feather: int
    min_change: float
    max_redraws: int
    negative_text: str
    max_angle: float
    def __init__(self, prompts: _Optional[_Iterable[str]] = ..., import_manifest: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., preset: _Optional[str] = ..., regime: _Optional[_Union[_common_pb2.Regime, str]] = ..., foreground: _Optional[str] = ..., masks: _Optional[str] = ..., defect_types: _Optional[_Iterable[str]] = ..., min_area: _Optional[float] = ..., max_area: _Optional[float] = ..., strength: _Optional[float] = ..., padding: _Optional[int] = ..., feather: _Optional[int] = ..., min_change: _Optional[float] = ..., max_redraws: _Optional[int] = ..., negative_text: _Optional[str] = ..., max_angle: _Optional[float] = ...) -> None: ...

class Reconstruct(_message.Message):
    __slots__ = ("import_manifest", "split")
    IMPORT_MANIFEST_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    import_manifest: _common_pb2.ObjectRef
    split: _common_pb2.Split
    def __init__(self, import_manifest: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., split: _Optional[_Union[_common_pb2.Split, str]] = ...) -> None: ...

class GenerateImagesRequest(_message.Message):
    __slots__ = ("parent", "batch_id", "adapter", "alpha", "count", "height", "width", "steps", "guidance", "seed", "start_index", "text_to_image", "inpaint", "reconstruct", "base_model", "round_size", "request_id", "clip_skip")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    START_INDEX_FIELD_NUMBER: _ClassVar[int]
    TEXT_TO_IMAGE_FIELD_NUMBER: _ClassVar[int]
    INPAINT_FIELD_NUMBER: _ClassVar[int]
    RECONSTRUCT_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    ROUND_SIZE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CLIP_SKIP_FIELD_NUMBER: _ClassVar[int]
    parent: str
    batch_id: str
    adapter: str
    alpha: float
    count: int
    height: int
    width: int
    steps: int
    guidance: float
    seed: int
    start_index: int
    text_to_image: TextToImage
    inpaint: Inpaint
    reconstruct: Reconstruct
    base_model: str
    round_size: bool
    request_id: str
    clip_skip: int
    def __init__(self, parent: _Optional[str] = ..., batch_id: _Optional[str] = ..., adapter: _Optional[str] = ..., alpha: _Optional[float] = ..., count: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., steps: _Optional[int] = ..., guidance: _Optional[float] = ..., seed: _Optional[int] = ..., start_index: _Optional[int] = ..., text_to_image: _Optional[_Union[TextToImage, _Mapping]] = ..., inpaint: _Optional[_Union[Inpaint, _Mapping]] = ..., reconstruct: _Optional[_Union[Reconstruct, _Mapping]] = ..., base_model: _Optional[str] = ..., round_size: _Optional[bool] = ..., request_id: _Optional[str] = ..., clip_skip: _Optional[int] = ...) -> None: ...

class DroppedImage(_message.Message):
    __slots__ = ("index", "reason")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    index: int
    reason: str
    def __init__(self, index: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class FailureRemoval(_message.Message):
    __slots__ = ("drawn", "unchanged", "unlike", "unplaced", "dropped", "threshold", "references", "note")
    DRAWN_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    UNLIKE_FIELD_NUMBER: _ClassVar[int]
    UNPLACED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    drawn: int
    unchanged: int
    unlike: int
    unplaced: int
    dropped: _containers.RepeatedCompositeFieldContainer[DroppedImage]
    threshold: float
    references: int
    note: str
    def __init__(self, drawn: _Optional[int] = ..., unchanged: _Optional[int] = ..., unlike: _Optional[int] = ..., unplaced: _Optional[int] = ..., dropped: _Optional[_Iterable[_Union[DroppedImage, _Mapping]]] = ..., threshold: _Optional[float] = ..., references: _Optional[int] = ..., note: _Optional[str] = ...) -> None: ...

class CopiedImage(_message.Message):
    __slots__ = ("index", "training_image", "similarity")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TRAINING_IMAGE_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    index: int
    training_image: _common_pb2.ObjectRef
    similarity: float
    def __init__(self, index: _Optional[int] = ..., training_image: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., similarity: _Optional[float] = ...) -> None: ...

class CopyCheck(_message.Message):
    __slots__ = ("copies", "threshold", "highest_similarity", "training_images", "note")
    COPIES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    TRAINING_IMAGES_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    copies: _containers.RepeatedCompositeFieldContainer[CopiedImage]
    threshold: float
    highest_similarity: float
    training_images: int
    note: str
    def __init__(self, copies: _Optional[_Iterable[_Union[CopiedImage, _Mapping]]] = ..., threshold: _Optional[float] = ..., highest_similarity: _Optional[float] = ..., training_images: _Optional[int] = ..., note: _Optional[str] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("name", "manifest", "image_count", "seed", "create_time", "method", "removal", "copy_check")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    IMAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    REMOVAL_FIELD_NUMBER: _ClassVar[int]
    COPY_CHECK_FIELD_NUMBER: _ClassVar[int]
    name: str
    manifest: _common_pb2.ObjectRef
    image_count: int
    seed: int
    create_time: _timestamp_pb2.Timestamp
    method: str
    removal: FailureRemoval
    copy_check: CopyCheck
    def __init__(self, name: _Optional[str] = ..., manifest: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., image_count: _Optional[int] = ..., seed: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., method: _Optional[str] = ..., removal: _Optional[_Union[FailureRemoval, _Mapping]] = ..., copy_check: _Optional[_Union[CopyCheck, _Mapping]] = ...) -> None: ...

class GetBatchRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListBatchesRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListBatchesResponse(_message.Message):
    __slots__ = ("batches", "next_page_token")
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedCompositeFieldContainer[Batch]
    next_page_token: str
    def __init__(self, batches: _Optional[_Iterable[_Union[Batch, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ReviewedImage(_message.Message):
    __slots__ = ("record", "review", "decided_by", "reason")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    REVIEW_FIELD_NUMBER: _ClassVar[int]
    DECIDED_BY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    record: _common_pb2.ImageRecord
    review: _common_pb2.Review
    decided_by: str
    reason: str
    def __init__(self, record: _Optional[_Union[_common_pb2.ImageRecord, _Mapping]] = ..., review: _Optional[_Union[_common_pb2.Review, str]] = ..., decided_by: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ListBatchImagesRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListBatchImagesResponse(_message.Message):
    __slots__ = ("images", "next_page_token")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[ReviewedImage]
    next_page_token: str
    def __init__(self, images: _Optional[_Iterable[_Union[ReviewedImage, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ReviewImagesRequest(_message.Message):
    __slots__ = ("parent", "images", "review", "reason")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    REVIEW_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    parent: str
    images: _containers.RepeatedScalarFieldContainer[str]
    review: _common_pb2.Review
    reason: str
    def __init__(self, parent: _Optional[str] = ..., images: _Optional[_Iterable[str]] = ..., review: _Optional[_Union[_common_pb2.Review, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class ReviewImagesResponse(_message.Message):
    __slots__ = ("pending", "accepted", "rejected")
    PENDING_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    pending: int
    accepted: int
    rejected: int
    def __init__(self, pending: _Optional[int] = ..., accepted: _Optional[int] = ..., rejected: _Optional[int] = ...) -> None: ...

class ExportBatchRequest(_message.Message):
    __slots__ = ("parent", "export_id", "batch", "layout", "accepted_only", "request_id")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    EXPORT_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    export_id: str
    batch: str
    layout: str
    accepted_only: bool
    request_id: str
    def __init__(self, parent: _Optional[str] = ..., export_id: _Optional[str] = ..., batch: _Optional[str] = ..., layout: _Optional[str] = ..., accepted_only: _Optional[bool] = ..., request_id: _Optional[str] = ...) -> None: ...

class BatchExport(_message.Message):
    __slots__ = ("name", "manifest", "batch", "layout", "prefix", "anomaly_count", "normal_count", "left_out", "create_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    ANOMALY_COUNT_FIELD_NUMBER: _ClassVar[int]
    NORMAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    manifest: _common_pb2.ObjectRef
    batch: str
    layout: str
    prefix: str
    anomaly_count: int
    normal_count: int
    left_out: int
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., manifest: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., batch: _Optional[str] = ..., layout: _Optional[str] = ..., prefix: _Optional[str] = ..., anomaly_count: _Optional[int] = ..., normal_count: _Optional[int] = ..., left_out: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
