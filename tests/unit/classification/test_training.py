import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet
from pydantic import ValidationError
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score

from flawsmith.classification.export import Golden
from flawsmith.classification.recipes import RECIPES
from flawsmith.classification.spec import TrainingImage
from flawsmith.classification.trainable import check_trainable
from flawsmith.classification.training import count_steps, run
from flawsmith.common.errors import AbortedError, FailedPreconditionError, InvalidArgumentError
from flawsmith.common.manifests import Label, Source, Split

from .support import Recorder, parameters, spec


@pytest.fixture(scope="module")
def trained(
    pictures: tuple[TrainingImage, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, object], Recorder]:
    recorder = Recorder()
    folder = tmp_path_factory.mktemp("work")
    result = run(spec(pictures, folder, checkpoint_every=2), recorder)
    return result, recorder


def test_result_is_json_and_its_figures_follow_from_the_stored_predictions(
    trained: tuple[dict[str, object], Recorder],
) -> None:
    result = json.loads(json.dumps(trained[0]))
    rows = parquet.read_table(result["predictions"]["test"]).to_pylist()
    labels = np.array([row["label"] == "defect" for row in rows])
    scores = np.array([row["score"] for row in rows])
    test = result["test"]
    assert (test["normals"], test["defects"]) == (6, 4)
    assert test["ap"] == pytest.approx(average_precision_score(labels, scores))
    called = scores >= result["threshold"]["value"]
    assert test["at_threshold"]["recall"] == pytest.approx(called[labels].mean())
    assert test["at_threshold"]["false_alarm_rate"] == pytest.approx(called[~labels].mean())
    assert [row["verdict"] == "defective" for row in rows] == called.tolist()


def test_threshold_keeps_the_default_rule_on_validation_normals(
    trained: tuple[dict[str, object], Recorder],
) -> None:
    result = trained[0]
    rows = parquet.read_table(result["predictions"]["validation"]).to_pylist()
    normals = [row["score"] for row in rows if row["label"] == "normal"]
    assert len(normals) == 6  # 5 % of six: none may be called defective
    assert max(normals) < result["threshold"]["value"]


def test_golden_images_show_defects_where_validation_has_none(
    pictures: tuple[TrainingImage, ...], tmp_path: Path
) -> None:
    images = tuple(image for image in pictures if image.split is not Split.VALIDATION or image.label is Label.NORMAL)
    result = run(spec(images, tmp_path, parameters=parameters(steps=1)), Recorder())
    defective = Golden.load(Path(result["golden"])).images.max((1, 2, 3)) > 200  # a bright square on grey noise
    assert defective.tolist().count(True) == defective.tolist().count(False) == 4


def test_progress_names_each_stage_with_its_total_and_loss(trained: tuple[dict[str, object], Recorder]) -> None:
    events = trained[1].events
    assert list(dict.fromkeys(event[0] for event in events)) == [
        "prepare", "train", "export", "evaluate",
    ]  # fmt: skip
    train = [event for event in events if event[0] == "train"]
    assert [(step, total) for _, step, total, _ in train] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(loss is not None and loss > 0 for *_, loss in train)


def test_a_resumed_run_ends_with_the_very_same_weights(
    pictures: tuple[TrainingImage, ...], trained: tuple[dict[str, object], Recorder], tmp_path: Path
) -> None:
    data, step = trained[1].checkpoints[0]
    assert step == 2
    (tmp_path / "from.pt").write_bytes(data)
    recorder = Recorder()
    resumed = run(spec(pictures, tmp_path / "again", resume_from=tmp_path / "from.pt"), recorder)
    assert [event[1] for event in recorder.events if event[0] == "train"] == [3, 4]
    before, after = load_file(str(trained[0]["weights"])), load_file(resumed["weights"])
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    assert resumed["test"] == trained[0]["test"]
    assert resumed["final_loss"] == trained[0]["final_loss"]


def test_a_checkpoint_of_another_run_is_refused(
    pictures: tuple[TrainingImage, ...], trained: tuple[dict[str, object], Recorder], tmp_path: Path
) -> None:
    (tmp_path / "from.pt").write_bytes(trained[1].checkpoints[0][0])
    with pytest.raises(FailedPreconditionError) as error:
        run(
            spec(pictures, tmp_path, parameters=parameters(seed=2), resume_from=tmp_path / "from.pt"),
            Recorder(),
        )
    assert error.value.reason == "CHECKPOINT_MISMATCH"


def test_baseline_never_sees_a_synthetic_image(pictures: tuple[TrainingImage, ...], tmp_path: Path) -> None:
    broken = tuple(
        image if image.source is Source.REAL else image.model_copy(update={"label": Label.NORMAL}) for image in pictures
    )
    results = [
        run(spec(images, tmp_path / name, parameters=parameters(include_synthetic=False, steps=1)), Recorder())
        for name, images in (("as-is", pictures), ("relabelled", broken))
    ]
    assert results[0]["test"] == results[1]["test"]  # the synthetics' labels change nothing


def test_reconstructed_normals_train_as_normals_and_judge_nothing_but_themselves(
    pictures: tuple[TrainingImage, ...], trained: tuple[dict[str, Any], Recorder], tmp_path: Path
) -> None:
    def reconstructed(split: Split) -> tuple[TrainingImage, ...]:
        normals = [image for image in pictures if (image.split, image.label) == (split, Label.NORMAL)]
        return tuple(image.model_copy(update={"source": Source.RECONSTRUCTED}) for image in normals)

    plain = trained[0]
    held_out = (*reconstructed(Split.VALIDATION), *reconstructed(Split.TEST))
    judged = run(spec((*pictures, *held_out), tmp_path / "judged"), Recorder())
    assert (plain["threshold"], plain["calibration"]) == (judged["threshold"], judged["calibration"])
    for split in ("validation", "test"):
        groups = {group["name"]: group for group in judged[split]["sources"]}
        assert (groups["reconstructed"]["normals"], groups["reconstructed"]["defects"]) == (6, 0)
        # The same pictures, so the same verdicts.
        assert groups["reconstructed"]["false_alarm_rate"] == groups["real"]["false_alarm_rate"]
        assert {**judged[split], "sources": [groups["real"]]} == plain[split]
    control = run(
        spec((*pictures, *reconstructed(Split.TRAIN)), tmp_path / "control", parameters=parameters(steps=1)), Recorder()
    )
    assert "16 normals (8 real, 8 reconstructed)" in Path(control["report"]).read_text()


def test_recall_rule_sets_the_threshold_from_out_of_fold_scores(
    pictures: tuple[TrainingImage, ...], tmp_path: Path
) -> None:
    recorder = Recorder()
    rule = {"kind": "recall", "value": 0.5}  # takes five real positives; there are six
    result = run(spec(pictures, tmp_path, parameters=parameters(threshold_rule=rule, steps=2)), recorder)
    stages = list(dict.fromkeys(event[0] for event in recorder.events))
    assert stages == ["prepare", *(f"fold {k} of 5" for k in range(1, 6)), "train", "export", "evaluate"]
    last = torch.load(io.BytesIO(recorder.checkpoints[-1][0]), weights_only=True)
    scores = last["out_of_fold"]
    assert {pictures[index].label for index in scores} == {Label.DEFECT}
    assert {pictures[index].source for index in scores} == {Source.REAL}
    assert len(scores) == 6
    assert result["threshold"]["value"] == pytest.approx(1 / (1 + np.exp(-min(scores.values()))))
    assert "6 real defects (0 missed)" in result["threshold"]["rule"]


def test_recall_rule_is_refused_before_training_when_positives_are_too_few(
    pictures: tuple[TrainingImage, ...], tmp_path: Path
) -> None:
    recorder = Recorder()
    with pytest.raises(FailedPreconditionError) as error:
        run(
            spec(pictures, tmp_path, parameters=parameters(threshold_rule={"kind": "recall", "value": 0.9})),
            recorder,
        )
    assert error.value.reason == "TOO_FEW_POSITIVES"
    assert "29" in error.value.message
    assert recorder.events == []


def test_a_diverging_loss_stops_with_an_error(pictures: tuple[TrainingImage, ...], tmp_path: Path) -> None:
    weights = torch.load(io.BytesIO(_checkpoint(pictures, tmp_path)), weights_only=True)
    weights["fit"]["model"]["head.weight"].fill_(float("nan"))
    torch.save(weights, tmp_path / "nan.pt")
    with pytest.raises(AbortedError) as error:
        run(spec(pictures, tmp_path, resume_from=tmp_path / "nan.pt"), Recorder())
    assert error.value.reason == "TRAINING_DIVERGED"
    assert "learning rate" in error.value.message


def test_every_unreadable_image_is_named(pictures: tuple[TrainingImage, ...], tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(pictures[0].path.read_bytes()[:100])
    (tmp_path / "text.png").write_text("not an image")
    images = (
        *pictures[2:],
        pictures[0].model_copy(update={"path": tmp_path / "cut.png"}),
        pictures[1].model_copy(update={"path": tmp_path / "text.png"}),
    )
    with pytest.raises(InvalidArgumentError) as error:
        run(spec(images, tmp_path / "work"), Recorder())
    assert error.value.reason == "IMAGES_UNREADABLE"
    assert {violation.field for violation in error.value.fields} == {"cut.png", "text.png"}


def test_untrainable_data_lists_all_that_is_missing() -> None:
    with pytest.raises(FailedPreconditionError) as error:
        check_trainable([(Label.DEFECT, Source.REAL, Split.TEST)], parameters())
    assert error.value.reason == "DATASET_NOT_TRAINABLE"
    assert {violation.field for violation in error.value.fields} == {
        "dataset.train.defect",
        "dataset.train.normal",
        "dataset.validation.normal",
    }


def test_zero_shot_data_set_has_no_baseline() -> None:
    images = [
        (Label.NORMAL, Source.REAL, Split.TRAIN),
        (Label.DEFECT, Source.IN_DISTRIBUTION, Split.TRAIN),
        (Label.NORMAL, Source.REAL, Split.VALIDATION),
    ]
    check_trainable(images, parameters())
    with pytest.raises(FailedPreconditionError) as error:
        check_trainable(images, parameters(include_synthetic=False))
    assert error.value.reason == "DATASET_NOT_TRAINABLE"
    assert "zero-shot" in error.value.message


def test_steps_of_epochs() -> None:
    recipe = RECIPES["in-and-out"]
    # The paper's few-shot baseline: 5 positives, 10 images an epoch, batch 5, 50 epochs: 100 steps.
    assert count_steps(parameters(steps=None, batch_size=None), recipe, 5) == 100
    assert count_steps(parameters(steps=None, epochs=3, batch_size=4), recipe, 5) == 8
    assert count_steps(parameters(steps=7), recipe, 5) == 7


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 3, "epochs": 2},
        {"height": 8},
        {"width": 100_000},
        {"batch_size": 1},
        {"learning_rate": 0.0},
        {"recipe": "none-such"},
        {"seed": -1},
        {"unknown": 1},
    ],
)
def test_parameters_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        parameters(**changes)


def _checkpoint(pictures: tuple[TrainingImage, ...], folder: Path) -> bytes:
    recorder = Recorder()
    run(spec(pictures, folder, checkpoint_every=2), recorder)
    return recorder.checkpoints[0][0]
