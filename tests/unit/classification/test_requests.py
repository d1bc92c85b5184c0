import pytest

from flawsmith.classification.requests import TrainClassifierSpec
from flawsmith.classification.thresholds import CostRule, FalseAlarmRateRule, RecallRule, TwoThresholdsRule
from flawsmith.classification.v1 import classification_pb2
from flawsmith.common.convert import to_model
from flawsmith.common.errors import InvalidArgumentError
from flawsmith.common.v1 import common_pb2

REF = common_pb2.ObjectRef(uri="s3://flawsmith/x", sha256="0" * 64, size=1)


def convert(**fields: object) -> TrainClassifierSpec:
    request = classification_pb2.TrainClassifierRequest(dataset_manifest=REF, **fields)
    return to_model(request, TrainClassifierSpec, name="products/p/classifiers/c/versions/v", principal="me")


def test_empty_request_means_the_defaults() -> None:
    parameters = convert().parameters(600, 200)
    assert (parameters.height, parameters.width) == (600, 200)
    assert (parameters.recipe, parameters.steps, parameters.epochs) == ("in-and-out", None, None)
    assert parameters.include_synthetic
    assert parameters.threshold_rule == FalseAlarmRateRule(value=0.05)


def test_every_field_arrives() -> None:
    parameters = convert(
        recipe="diag", exclude_synthetic=True, steps=9, batch_size=4, learning_rate=0.5, height=64, width=32,
        threshold_rule=classification_pb2.ThresholdRule(recall=0.9), seed=3, backbone="resnet18",
    ).parameters(600, 200)  # fmt: skip
    assert parameters.model_dump() == {
        "recipe": "diag", "epochs": None, "steps": 9, "batch_size": 4, "learning_rate": 0.5, "height": 64, "width": 32,
        "threshold_rule": RecallRule(value=0.9).model_dump(), "seed": 3, "include_synthetic": False,
        "backbone": "resnet18",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("size", "asked", "wrong"),
    [
        ((2048, 2448), {}, ["width"]),  # a camera of 5 megapixels
        ((28, 28), {}, ["height", "width"]),
        ((28, 2049), {"height": 32}, ["width"]),
    ],
)
def test_a_data_set_of_a_size_that_no_classifier_takes_needs_height_and_width(
    size: tuple[int, int], asked: dict[str, int], wrong: list[str]
) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        convert(**asked).parameters(*size)
    assert error.value.reason == "IMAGE_SIZE_UNSUPPORTED"
    assert f"{size[0]} x {size[1]} pixels" in error.value.message
    assert "32 to 2048 pixels" in error.value.message
    assert "--height, --width" in error.value.message
    assert [violation.field for violation in error.value.fields] == wrong
    parameters = convert(height=1024, width=1224).parameters(*size)
    assert (parameters.height, parameters.width) == (1024, 1224)


def test_the_smallest_and_the_largest_size_are_taken_from_the_data_set() -> None:
    parameters = convert().parameters(32, 2048)
    assert (parameters.height, parameters.width) == (32, 2048)


def test_a_false_alarm_rate_of_zero_is_not_the_default() -> None:
    rule = classification_pb2.ThresholdRule(false_alarm_rate=0.0)
    assert convert(threshold_rule=rule).threshold_rule == FalseAlarmRateRule(value=0.0)
    assert convert(threshold_rule=classification_pb2.ThresholdRule()).threshold_rule == FalseAlarmRateRule()


def test_rules_with_several_numbers_arrive() -> None:
    cost = classification_pb2.ThresholdRule(cost=classification_pb2.CostRule(ratio=20, defect_share=0.02))
    assert convert(threshold_rule=cost).threshold_rule == CostRule(ratio=20, defect_share=0.02)
    # A false-alarm rate of 0 is a wish, though protobuf leaves zeros out.
    two = classification_pb2.TwoThresholdsRule(recall=0.95, false_alarm_rate=0.0)
    rule = classification_pb2.ThresholdRule(two_thresholds=two)
    assert convert(threshold_rule=rule).threshold_rule == TwoThresholdsRule(recall=0.95, false_alarm_rate=0.0)


def test_initial_weights_are_a_file_or_a_model_of_the_hub_at_a_commit() -> None:
    assert convert().initial_weights is None
    assert convert(initial_weights=REF).initial_weights is not None
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert convert(initial_hub_model=f"timm/resnet50@{commit}").initial_hub_model == f"timm/resnet50@{commit}"
    for model in ("timm/resnet50", "timm/resnet50@main", "timm/resnet50@v1", f"timm/resnet50@{commit[:7]}"):
        with pytest.raises(InvalidArgumentError) as error:
            convert(initial_hub_model=model)
        assert error.value.fields[0].field == "initial_hub_model"
        assert "40 hexadecimal digits" in error.value.message


def test_all_bad_fields_are_listed() -> None:
    with pytest.raises(InvalidArgumentError) as error:
        convert(
            recipe="none-such", epochs=2, steps=3, batch_size=1, height=4, width=100_000, learning_rate=-1.0,
            backbone="vgg",
            threshold_rule=classification_pb2.ThresholdRule(recall=1.5), seed=-1,
        )  # fmt: skip
    named = {violation.field.split(".")[0] for violation in error.value.fields}
    assert named == {
        "recipe",
        "steps",
        "batch_size",
        "height",
        "width",
        "learning_rate",
        "threshold_rule",
        "seed",
        "backbone",
    }
