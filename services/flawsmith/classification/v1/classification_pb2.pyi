import datetime

from flawsmith.common.v1 import common_pb2 as _common_pb2
from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SizePolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIZE_POLICY_UNSPECIFIED: _ClassVar[SizePolicy]
    SIZE_POLICY_RESIZE: _ClassVar[SizePolicy]
    SIZE_POLICY_REFUSE: _ClassVar[SizePolicy]

class Alias(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ALIAS_UNSPECIFIED: _ClassVar[Alias]
    ALIAS_CHAMPION: _ClassVar[Alias]
    ALIAS_CANDIDATE: _ClassVar[Alias]

class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRECISION_UNSPECIFIED: _ClassVar[Precision]
    PRECISION_FP32: _ClassVar[Precision]
    PRECISION_INT8: _ClassVar[Precision]

class ExportFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPORT_FORMAT_UNSPECIFIED: _ClassVar[ExportFormat]
    EXPORT_FORMAT_ONNX: _ClassVar[ExportFormat]
    EXPORT_FORMAT_ONNX_INT8: _ClassVar[ExportFormat]
    EXPORT_FORMAT_OPENVINO: _ClassVar[ExportFormat]
    EXPORT_FORMAT_TENSORRT: _ClassVar[ExportFormat]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_OK: _ClassVar[Verdict]
    VERDICT_DEFECTIVE: _ClassVar[Verdict]
    VERDICT_UNKNOWN: _ClassVar[Verdict]
SIZE_POLICY_UNSPECIFIED: SizePolicy
SIZE_POLICY_RESIZE: SizePolicy
SIZE_POLICY_REFUSE: SizePolicy
ALIAS_UNSPECIFIED: Alias
ALIAS_CHAMPION: Alias
ALIAS_CANDIDATE: Alias
PRECISION_UNSPECIFIED: Precision
PRECISION_FP32: Precision
PRECISION_INT8: Precision
EXPORT_FORMAT_UNSPECIFIED: ExportFormat
EXPORT_FORMAT_ONNX: ExportFormat
EXPORT_FORMAT_ONNX_INT8: ExportFormat
EXPORT_FORMAT_OPENVINO: ExportFormat
EXPORT_FORMAT_TENSORRT: ExportFormat
VERDICT_UNSPECIFIED: Verdict
VERDICT_OK: Verdict
VERDICT_DEFECTIVE: Verdict
VERDICT_UNKNOWN: Verdict

class TrainClassifierRequest(_message.Message):
    __slots__ = ("parent", "version_id", "dataset_manifest", "recipe", "exclude_synthetic", "epochs", "steps", "batch_size", "learning_rate", "height", "width", "threshold_rule", "seed", "request_id", "initial_weights", "initial_hub_model", "backbone")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    VERSION_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_MANIFEST_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_SYNTHETIC_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_RULE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INITIAL_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_HUB_MODEL_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    parent: str
    version_id: str
    dataset_manifest: _common_pb2.ObjectRef
    recipe: str
    exclude_synthetic: bool
    epochs: int
    steps: int
    batch_size: int
    learning_rate: float
    height: int
    width: int
    threshold_rule: ThresholdRule
    seed: int
    request_id: str
    initial_weights: _common_pb2.ObjectRef
    initial_hub_model: str
    backbone: str
    def __init__(self, parent: _Optional[str] = ..., version_id: _Optional[str] = ..., dataset_manifest: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., recipe: _Optional[str] = ..., exclude_synthetic: _Optional[bool] = ..., epochs: _Optional[int] = ..., steps: _Optional[int] = ..., batch_size: _Optional[int] = ..., learning_rate: _Optional[float] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., threshold_rule: _Optional[_Union[ThresholdRule, _Mapping]] = ..., seed: _Optional[int] = ..., request_id: _Optional[str] = ..., initial_weights: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., initial_hub_model: _Optional[str] = ..., backbone: _Optional[str] = ...) -> None: ...

class ThresholdRule(_message.Message):
    __slots__ = ("false_alarm_rate", "recall", "cost", "two_thresholds")
    FALSE_ALARM_RATE_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    TWO_THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    false_alarm_rate: float
    recall: float
    cost: CostRule
    two_thresholds: TwoThresholdsRule
    def __init__(self, false_alarm_rate: _Optional[float] = ..., recall: _Optional[float] = ..., cost: _Optional[_Union[CostRule, _Mapping]] = ..., two_thresholds: _Optional[_Union[TwoThresholdsRule, _Mapping]] = ...) -> None: ...

class CostRule(_message.Message):
    __slots__ = ("ratio", "defect_share")
    RATIO_FIELD_NUMBER: _ClassVar[int]
    DEFECT_SHARE_FIELD_NUMBER: _ClassVar[int]
    ratio: float
    defect_share: float
    def __init__(self, ratio: _Optional[float] = ..., defect_share: _Optional[float] = ...) -> None: ...

class TwoThresholdsRule(_message.Message):
    __slots__ = ("recall", "false_alarm_rate")
    RECALL_FIELD_NUMBER: _ClassVar[int]
    FALSE_ALARM_RATE_FIELD_NUMBER: _ClassVar[int]
    recall: float
    false_alarm_rate: float
    def __init__(self, recall: _Optional[float] = ..., false_alarm_rate: _Optional[float] = ...) -> None: ...

class Threshold(_message.Message):
    __slots__ = ("id", "value", "rule", "ok_below")
    ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    OK_BELOW_FIELD_NUMBER: _ClassVar[int]
    id: str
    value: float
    rule: str
    ok_below: float
    def __init__(self, id: _Optional[str] = ..., value: _Optional[float] = ..., rule: _Optional[str] = ..., ok_below: _Optional[float] = ...) -> None: ...

class Interval(_message.Message):
    __slots__ = ("low", "high")
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    low: float
    high: float
    def __init__(self, low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class Calibration(_message.Message):
    __slots__ = ("temperature", "normals", "defects")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    NORMALS_FIELD_NUMBER: _ClassVar[int]
    DEFECTS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    normals: int
    defects: int
    def __init__(self, temperature: _Optional[float] = ..., normals: _Optional[int] = ..., defects: _Optional[int] = ...) -> None: ...

class OperatingPoint(_message.Message):
    __slots__ = ("threshold", "true_positives", "false_positives", "true_negatives", "false_negatives", "precision", "recall", "f1", "false_alarm_rate", "precision_interval", "recall_interval", "false_alarm_rate_interval", "f1_interval")
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    TRUE_POSITIVES_FIELD_NUMBER: _ClassVar[int]
    FALSE_POSITIVES_FIELD_NUMBER: _ClassVar[int]
    TRUE_NEGATIVES_FIELD_NUMBER: _ClassVar[int]
    FALSE_NEGATIVES_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    F1_FIELD_NUMBER: _ClassVar[int]
    FALSE_ALARM_RATE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    RECALL_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    FALSE_ALARM_RATE_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    F1_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    threshold: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    precision: float
    recall: float
    f1: float
    false_alarm_rate: float
    precision_interval: Interval
    recall_interval: Interval
    false_alarm_rate_interval: Interval
    f1_interval: Interval
    def __init__(self, threshold: _Optional[float] = ..., true_positives: _Optional[int] = ..., false_positives: _Optional[int] = ..., true_negatives: _Optional[int] = ..., false_negatives: _Optional[int] = ..., precision: _Optional[float] = ..., recall: _Optional[float] = ..., f1: _Optional[float] = ..., false_alarm_rate: _Optional[float] = ..., precision_interval: _Optional[_Union[Interval, _Mapping]] = ..., recall_interval: _Optional[_Union[Interval, _Mapping]] = ..., false_alarm_rate_interval: _Optional[_Union[Interval, _Mapping]] = ..., f1_interval: _Optional[_Union[Interval, _Mapping]] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("name", "normals", "defects", "ap", "recall", "recall_interval", "false_alarm_rate", "false_alarm_rate_interval", "ap_interval")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NORMALS_FIELD_NUMBER: _ClassVar[int]
    DEFECTS_FIELD_NUMBER: _ClassVar[int]
    AP_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    RECALL_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    FALSE_ALARM_RATE_FIELD_NUMBER: _ClassVar[int]
    FALSE_ALARM_RATE_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    AP_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    name: str
    normals: int
    defects: int
    ap: float
    recall: float
    recall_interval: Interval
    false_alarm_rate: float
    false_alarm_rate_interval: Interval
    ap_interval: Interval
    def __init__(self, name: _Optional[str] = ..., normals: _Optional[int] = ..., defects: _Optional[int] = ..., ap: _Optional[float] = ..., recall: _Optional[float] = ..., recall_interval: _Optional[_Union[Interval, _Mapping]] = ..., false_alarm_rate: _Optional[float] = ..., false_alarm_rate_interval: _Optional[_Union[Interval, _Mapping]] = ..., ap_interval: _Optional[_Union[Interval, _Mapping]] = ...) -> None: ...

class ReliabilityBin(_message.Message):
    __slots__ = ("probability", "defective", "images")
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    DEFECTIVE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    probability: float
    defective: float
    images: int
    def __init__(self, probability: _Optional[float] = ..., defective: _Optional[float] = ..., images: _Optional[int] = ...) -> None: ...

class Reliability(_message.Message):
    __slots__ = ("calibration_error_before", "calibration_error", "bins")
    CALIBRATION_ERROR_BEFORE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_ERROR_FIELD_NUMBER: _ClassVar[int]
    BINS_FIELD_NUMBER: _ClassVar[int]
    calibration_error_before: float
    calibration_error: float
    bins: _containers.RepeatedCompositeFieldContainer[ReliabilityBin]
    def __init__(self, calibration_error_before: _Optional[float] = ..., calibration_error: _Optional[float] = ..., bins: _Optional[_Iterable[_Union[ReliabilityBin, _Mapping]]] = ...) -> None: ...

class PrecisionRecallPoint(_message.Message):
    __slots__ = ("precision", "recall", "threshold")
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    precision: float
    recall: float
    threshold: float
    def __init__(self, precision: _Optional[float] = ..., recall: _Optional[float] = ..., threshold: _Optional[float] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("split", "normals", "defects", "ap_trapezoid", "ap", "curve", "predictions", "name", "dataset_manifest", "ap_trapezoid_interval", "ap_interval", "at_threshold", "at_best_f1_of_validation", "at_best_f1_here", "defect_types", "sources", "reliability", "report", "create_time", "unknown", "at_ok_below", "unknown_normals", "unknown_defects")
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    NORMALS_FIELD_NUMBER: _ClassVar[int]
    DEFECTS_FIELD_NUMBER: _ClassVar[int]
    AP_TRAPEZOID_FIELD_NUMBER: _ClassVar[int]
    AP_FIELD_NUMBER: _ClassVar[int]
    CURVE_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATASET_MANIFEST_FIELD_NUMBER: _ClassVar[int]
    AP_TRAPEZOID_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    AP_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    AT_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    AT_BEST_F1_OF_VALIDATION_FIELD_NUMBER: _ClassVar[int]
    AT_BEST_F1_HERE_FIELD_NUMBER: _ClassVar[int]
    DEFECT_TYPES_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    RELIABILITY_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    AT_OK_BELOW_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_NORMALS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_DEFECTS_FIELD_NUMBER: _ClassVar[int]
    split: _common_pb2.Split
    normals: int
    defects: int
    ap_trapezoid: float
    ap: float
    curve: _containers.RepeatedCompositeFieldContainer[PrecisionRecallPoint]
    predictions: _common_pb2.ObjectRef
    name: str
    dataset_manifest: _common_pb2.ObjectRef
    ap_trapezoid_interval: Interval
    ap_interval: Interval
    at_threshold: OperatingPoint
    at_best_f1_of_validation: OperatingPoint
    at_best_f1_here: OperatingPoint
    defect_types: _containers.RepeatedCompositeFieldContainer[Group]
    sources: _containers.RepeatedCompositeFieldContainer[Group]
    reliability: Reliability
    report: _common_pb2.ObjectRef
    create_time: _timestamp_pb2.Timestamp
    unknown: int
    at_ok_below: OperatingPoint
    unknown_normals: int
    unknown_defects: int
    def __init__(self, split: _Optional[_Union[_common_pb2.Split, str]] = ..., normals: _Optional[int] = ..., defects: _Optional[int] = ..., ap_trapezoid: _Optional[float] = ..., ap: _Optional[float] = ..., curve: _Optional[_Iterable[_Union[PrecisionRecallPoint, _Mapping]]] = ..., predictions: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., name: _Optional[str] = ..., dataset_manifest: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., ap_trapezoid_interval: _Optional[_Union[Interval, _Mapping]] = ..., ap_interval: _Optional[_Union[Interval, _Mapping]] = ..., at_threshold: _Optional[_Union[OperatingPoint, _Mapping]] = ..., at_best_f1_of_validation: _Optional[_Union[OperatingPoint, _Mapping]] = ..., at_best_f1_here: _Optional[_Union[OperatingPoint, _Mapping]] = ..., defect_types: _Optional[_Iterable[_Union[Group, _Mapping]]] = ..., sources: _Optional[_Iterable[_Union[Group, _Mapping]]] = ..., reliability: _Optional[_Union[Reliability, _Mapping]] = ..., report: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., unknown: _Optional[int] = ..., at_ok_below: _Optional[_Union[OperatingPoint, _Mapping]] = ..., unknown_normals: _Optional[int] = ..., unknown_defects: _Optional[int] = ...) -> None: ...

class ClassifierVersion(_message.Message):
    __slots__ = ("name", "manifest", "dataset_manifest", "recipe", "steps", "height", "width", "threshold", "test", "onnx", "onnx_max_abs_diff", "create_time", "validation", "calibration", "report", "backbone", "initial_weights")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    DATASET_MANIFEST_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    TEST_FIELD_NUMBER: _ClassVar[int]
    ONNX_FIELD_NUMBER: _ClassVar[int]
    ONNX_MAX_ABS_DIFF_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    INITIAL_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    manifest: _common_pb2.ObjectRef
    dataset_manifest: _common_pb2.ObjectRef
    recipe: str
    steps: int
    height: int
    width: int
    threshold: Threshold
    test: Evaluation
    onnx: _common_pb2.ObjectRef
    onnx_max_abs_diff: float
    create_time: _timestamp_pb2.Timestamp
    validation: Evaluation
    calibration: Calibration
    report: _common_pb2.ObjectRef
    backbone: str
    initial_weights: _common_pb2.ObjectRef
    def __init__(self, name: _Optional[str] = ..., manifest: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., dataset_manifest: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., recipe: _Optional[str] = ..., steps: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., threshold: _Optional[_Union[Threshold, _Mapping]] = ..., test: _Optional[_Union[Evaluation, _Mapping]] = ..., onnx: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., onnx_max_abs_diff: _Optional[float] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., validation: _Optional[_Union[Evaluation, _Mapping]] = ..., calibration: _Optional[_Union[Calibration, _Mapping]] = ..., report: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., backbone: _Optional[str] = ..., initial_weights: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ...) -> None: ...

class EvaluateClassifierRequest(_message.Message):
    __slots__ = ("name", "dataset_manifest", "split", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATASET_MANIFEST_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    dataset_manifest: _common_pb2.ObjectRef
    split: _common_pb2.Split
    request_id: str
    def __init__(self, name: _Optional[str] = ..., dataset_manifest: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., split: _Optional[_Union[_common_pb2.Split, str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class GetEvaluationRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListEvaluationsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListEvaluationsResponse(_message.Message):
    __slots__ = ("evaluations", "next_page_token")
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    evaluations: _containers.RepeatedCompositeFieldContainer[Evaluation]
    next_page_token: str
    def __init__(self, evaluations: _Optional[_Iterable[_Union[Evaluation, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeployClassifierRequest(_message.Message):
    __slots__ = ("name", "request_id", "alias", "precision", "size_policy")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    SIZE_POLICY_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    alias: Alias
    precision: Precision
    size_policy: SizePolicy
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ..., alias: _Optional[_Union[Alias, str]] = ..., precision: _Optional[_Union[Precision, str]] = ..., size_policy: _Optional[_Union[SizePolicy, str]] = ...) -> None: ...

class SizeRange(_message.Message):
    __slots__ = ("height_min", "height_max", "width_min", "width_max")
    HEIGHT_MIN_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_MAX_FIELD_NUMBER: _ClassVar[int]
    WIDTH_MIN_FIELD_NUMBER: _ClassVar[int]
    WIDTH_MAX_FIELD_NUMBER: _ClassVar[int]
    height_min: int
    height_max: int
    width_min: int
    width_max: int
    def __init__(self, height_min: _Optional[int] = ..., height_max: _Optional[int] = ..., width_min: _Optional[int] = ..., width_max: _Optional[int] = ...) -> None: ...

class Deployment(_message.Message):
    __slots__ = ("classifier", "version", "triton_model", "max_abs_diff_vs_onnxruntime", "deployed_by", "deploy_time", "alias", "precision", "max_abs_diff_vs_pytorch", "size_policy", "sizes")
    CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TRITON_MODEL_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_DIFF_VS_ONNXRUNTIME_FIELD_NUMBER: _ClassVar[int]
    DEPLOYED_BY_FIELD_NUMBER: _ClassVar[int]
    DEPLOY_TIME_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_DIFF_VS_PYTORCH_FIELD_NUMBER: _ClassVar[int]
    SIZE_POLICY_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    classifier: str
    version: str
    triton_model: str
    max_abs_diff_vs_onnxruntime: float
    deployed_by: str
    deploy_time: _timestamp_pb2.Timestamp
    alias: Alias
    precision: Precision
    max_abs_diff_vs_pytorch: float
    size_policy: SizePolicy
    sizes: SizeRange
    def __init__(self, classifier: _Optional[str] = ..., version: _Optional[str] = ..., triton_model: _Optional[str] = ..., max_abs_diff_vs_onnxruntime: _Optional[float] = ..., deployed_by: _Optional[str] = ..., deploy_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., alias: _Optional[_Union[Alias, str]] = ..., precision: _Optional[_Union[Precision, str]] = ..., max_abs_diff_vs_pytorch: _Optional[float] = ..., size_policy: _Optional[_Union[SizePolicy, str]] = ..., sizes: _Optional[_Union[SizeRange, _Mapping]] = ...) -> None: ...

class Classifier(_message.Message):
    __slots__ = ("name", "champion", "candidate", "previous")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    name: str
    champion: Deployment
    candidate: Deployment
    previous: Deployment
    def __init__(self, name: _Optional[str] = ..., champion: _Optional[_Union[Deployment, _Mapping]] = ..., candidate: _Optional[_Union[Deployment, _Mapping]] = ..., previous: _Optional[_Union[Deployment, _Mapping]] = ...) -> None: ...

class PromoteClassifierRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class WithdrawCandidateRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetClassifierRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetShadowReportRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ShadowScore(_message.Message):
    __slots__ = ("time", "image_sha256", "champion", "champion_score", "champion_verdict", "candidate", "candidate_score", "candidate_verdict")
    TIME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SHA256_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_SCORE_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_VERDICT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_SCORE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_VERDICT_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    image_sha256: str
    champion: str
    champion_score: float
    champion_verdict: Verdict
    candidate: str
    candidate_score: float
    candidate_verdict: Verdict
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., image_sha256: _Optional[str] = ..., champion: _Optional[str] = ..., champion_score: _Optional[float] = ..., champion_verdict: _Optional[_Union[Verdict, str]] = ..., candidate: _Optional[str] = ..., candidate_score: _Optional[float] = ..., candidate_verdict: _Optional[_Union[Verdict, str]] = ...) -> None: ...

class ShadowReport(_message.Message):
    __slots__ = ("champion", "candidate", "images", "agreeing", "agreement_low", "agreement_high", "mean_abs_diff", "disagreements", "scores")
    CHAMPION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    AGREEING_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_LOW_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_HIGH_FIELD_NUMBER: _ClassVar[int]
    MEAN_ABS_DIFF_FIELD_NUMBER: _ClassVar[int]
    DISAGREEMENTS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    champion: str
    candidate: str
    images: int
    agreeing: int
    agreement_low: float
    agreement_high: float
    mean_abs_diff: float
    disagreements: _containers.RepeatedCompositeFieldContainer[ShadowScore]
    scores: _containers.RepeatedCompositeFieldContainer[_common_pb2.ObjectRef]
    def __init__(self, champion: _Optional[str] = ..., candidate: _Optional[str] = ..., images: _Optional[int] = ..., agreeing: _Optional[int] = ..., agreement_low: _Optional[float] = ..., agreement_high: _Optional[float] = ..., mean_abs_diff: _Optional[float] = ..., disagreements: _Optional[_Iterable[_Union[ShadowScore, _Mapping]]] = ..., scores: _Optional[_Iterable[_Union[_common_pb2.ObjectRef, _Mapping]]] = ...) -> None: ...

class ExportClassifierRequest(_message.Message):
    __slots__ = ("name", "format", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    format: ExportFormat
    request_id: str
    def __init__(self, name: _Optional[str] = ..., format: _Optional[_Union[ExportFormat, str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ExportedFile(_message.Message):
    __slots__ = ("name", "file")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    name: str
    file: _common_pb2.ObjectRef
    def __init__(self, name: _Optional[str] = ..., file: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ...) -> None: ...

class VariantGate(_message.Message):
    __slots__ = ("normals", "defects", "ap_fp32", "ap", "ap_difference_low", "ap_difference_high", "verdict_agreement", "verdict_agreement_low")
    NORMALS_FIELD_NUMBER: _ClassVar[int]
    DEFECTS_FIELD_NUMBER: _ClassVar[int]
    AP_FP32_FIELD_NUMBER: _ClassVar[int]
    AP_FIELD_NUMBER: _ClassVar[int]
    AP_DIFFERENCE_LOW_FIELD_NUMBER: _ClassVar[int]
    AP_DIFFERENCE_HIGH_FIELD_NUMBER: _ClassVar[int]
    VERDICT_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    VERDICT_AGREEMENT_LOW_FIELD_NUMBER: _ClassVar[int]
    normals: int
    defects: int
    ap_fp32: float
    ap: float
    ap_difference_low: float
    ap_difference_high: float
    verdict_agreement: float
    verdict_agreement_low: float
    def __init__(self, normals: _Optional[int] = ..., defects: _Optional[int] = ..., ap_fp32: _Optional[float] = ..., ap: _Optional[float] = ..., ap_difference_low: _Optional[float] = ..., ap_difference_high: _Optional[float] = ..., verdict_agreement: _Optional[float] = ..., verdict_agreement_low: _Optional[float] = ...) -> None: ...

class ClassifierExport(_message.Message):
    __slots__ = ("name", "manifest", "format", "files", "max_abs_diff_vs_pytorch", "gate", "create_time", "versions")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_DIFF_VS_PYTORCH_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    manifest: _common_pb2.ObjectRef
    format: ExportFormat
    files: _containers.RepeatedCompositeFieldContainer[ExportedFile]
    max_abs_diff_vs_pytorch: float
    gate: VariantGate
    create_time: _timestamp_pb2.Timestamp
    versions: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., manifest: _Optional[_Union[_common_pb2.ObjectRef, _Mapping]] = ..., format: _Optional[_Union[ExportFormat, str]] = ..., files: _Optional[_Iterable[_Union[ExportedFile, _Mapping]]] = ..., max_abs_diff_vs_pytorch: _Optional[float] = ..., gate: _Optional[_Union[VariantGate, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., versions: _Optional[_Mapping[str, str]] = ...) -> None: ...

class RollBackClassifierRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetClassifierVersionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListClassifierVersionsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListClassifierVersionsResponse(_message.Message):
    __slots__ = ("versions", "next_page_token")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[ClassifierVersion]
    next_page_token: str
    def __init__(self, versions: _Optional[_Iterable[_Union[ClassifierVersion, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("classifier", "image", "heat_map", "frame_timeout", "frame_id")
    CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    HEAT_MAP_FIELD_NUMBER: _ClassVar[int]
    FRAME_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    classifier: str
    image: _common_pb2.ImageSource
    heat_map: bool
    frame_timeout: _duration_pb2.Duration
    frame_id: str
    def __init__(self, classifier: _Optional[str] = ..., image: _Optional[_Union[_common_pb2.ImageSource, _Mapping]] = ..., heat_map: _Optional[bool] = ..., frame_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., frame_id: _Optional[str] = ...) -> None: ...

class BatchClassifyRequest(_message.Message):
    __slots__ = ("classifier", "images", "heat_map")
    CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    HEAT_MAP_FIELD_NUMBER: _ClassVar[int]
    classifier: str
    images: _containers.RepeatedCompositeFieldContainer[_common_pb2.ImageSource]
    heat_map: bool
    def __init__(self, classifier: _Optional[str] = ..., images: _Optional[_Iterable[_Union[_common_pb2.ImageSource, _Mapping]]] = ..., heat_map: _Optional[bool] = ...) -> None: ...

class BatchClassifyResponse(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[ClassifyResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[ClassifyResponse, _Mapping]]] = ...) -> None: ...

class HeatMap(_message.Message):
    __slots__ = ("png", "method", "peak")
    PNG_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PEAK_FIELD_NUMBER: _ClassVar[int]
    png: bytes
    method: str
    peak: float
    def __init__(self, png: _Optional[bytes] = ..., method: _Optional[str] = ..., peak: _Optional[float] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("verdict", "score", "threshold", "version", "calibrated_probability", "precision", "heat_map", "frame_id", "error")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CALIBRATED_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    HEAT_MAP_FIELD_NUMBER: _ClassVar[int]
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    score: float
    threshold: Threshold
    version: str
    calibrated_probability: float
    precision: Precision
    heat_map: HeatMap
    frame_id: str
    error: _status_pb2.Status
    def __init__(self, verdict: _Optional[_Union[Verdict, str]] = ..., score: _Optional[float] = ..., threshold: _Optional[_Union[Threshold, _Mapping]] = ..., version: _Optional[str] = ..., calibrated_probability: _Optional[float] = ..., precision: _Optional[_Union[Precision, str]] = ..., heat_map: _Optional[_Union[HeatMap, _Mapping]] = ..., frame_id: _Optional[str] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...
