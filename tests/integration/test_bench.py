"""In&Out's grid on the real platform: killed and continued, grown, with cells that fail, and stopped by Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.bench.cells import Arm, Cell
from flawsmith.bench.results import CellResult, read_results
from flawsmith.client import Client, metadata_of
from flawsmith.common.v1 import common_pb2
from flawsmith.drawing.sample_product import write_sample_dataset
from flawsmith.generation.v1 import generation_pb2
from flawsmith.local.platform import LocalPlatform

pytestmark = pytest.mark.timeout(900)
FLAWSMITH = str(Path(sys.executable).with_name("flawsmith"))
STEPS = 5
TINY = (
    "--regimes", "few", "--n-aug", "5", "--accounting", "steps", "--steps", str(STEPS), "--height", "64",
    "--width", "64", "--backbone", "resnet18", "--drawn-height", "64", "--drawn-width", "64", "--denoising-steps", "2",
    "--adapter-config", '{"max_steps": 2, "batch_size": 1, "regularization_images": 2, "rank": 4}',
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """The command on a data set and an output folder."""

    platform: LocalPlatform
    data: Path
    out: Path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [FLAWSMITH, "--state", str(self.platform.state_dir), "bench", "in-and-out", "--data", str(self.data)]
        return subprocess.Popen(
            [*command, "--out", str(self.out), *TINY, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *arguments: str, code: int = 0) -> str:
        """stderr of a start that goes to its end."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=280)
        assert process.returncode == code, out + err
        return err

    @property
    def results(self) -> dict[Cell, CellResult]:
        return {result.cell: result for result in read_results(self.out / "cells.jsonl")}

    def operations(self, client: Client, kind: str) -> list[str]:
        """Names of this run's operations of a kind; what a run makes has the data's digest in its name."""
        run = json.loads((self.out / "run.json").read_text())
        product = f"products/bench-{run['settings']['data'][:12]}/"
        return [
            operation.name
            for service in ("assembly", "augmentation", "generation", "classification")
            for operation in client.list_operations(service, 1000)
            if metadata_of(operation).kind == kind and metadata_of(operation).target.startswith(product)
        ]


@pytest.fixture(scope="module")
def bench(platform: LocalPlatform, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Bench]:
    """Makes the command for a data set of its own, drawn with a seed."""

    def make(seed: int) -> Bench:
        data = tmp_path_factory.mktemp("bench")
        write_sample_dataset(
            data, seed=seed, train_normal=12, train_defect=8, test_normal=5, test_defect=4, height=64, width=64
        )
        return Bench(platform, data, tmp_path_factory.mktemp("out") / "run")

    return make


def await_results(bench: Bench, process: subprocess.Popen[str], count: int) -> None:
    deadline = time.monotonic() + 200
    while len(bench.results) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)


def real_positives(client: Client, dataset: str) -> frozenset[str]:
    request = assembly_pb2.ListDatasetImagesRequest(
        parent=dataset, split=common_pb2.SPLIT_TRAIN, source=common_pb2.SOURCE_REAL, page_size=1000
    )
    images = client.assembly.ListDatasetImages(request).images
    return frozenset(image.image.sha256 for image in images if image.label == common_pb2.LABEL_DEFECT)


@pytest.fixture(scope="module")
def killed(bench: Callable[[int], Bench], platform: LocalPlatform) -> Bench:
    """Four cells, killed after the first and continued; then grown by the arms that diffusion takes part in."""
    made = bench(31)
    arms = ("--arms", "none", "per-region", "--seeds", "2")
    process = made.start(*arms)
    await_results(made, process, 1)
    process.kill()
    process.communicate()
    before = (made.out / "cells.jsonl").read_bytes()
    said = made.run(*arms)
    assert f"4 cells, {len(before.splitlines())} done before" in said
    assert (made.out / "cells.jsonl").read_bytes().startswith(before)
    return made


@pytest.fixture(scope="module")
def grown(killed: Bench) -> Bench:
    """The same run with all arms, one seed more than the others have."""
    killed.run("--arms", "none", "per-region", "diffusion", "mixed", "control", "--seeds", "1")
    return killed


def test_a_killed_run_goes_on_and_repeats_nothing(killed: Bench, client: Client) -> None:
    counted = {kind: len(killed.operations(client, kind)) for kind in ("ImportImages", "TrainClassifier")}
    assert counted["ImportImages"] == 1
    two_seeds = [cell for cell in killed.results if cell.arm in (Arm.NONE, Arm.PER_REGION)]
    assert len(two_seeds) == 4
    assert counted["TrainClassifier"] == len(killed.results)
    assert "4 cells, 4 done before" in killed.run("--arms", "none", "per-region", "--seeds", "2")
    assert len(killed.operations(client, "TrainClassifier")) == counted["TrainClassifier"]


def test_every_arm_trains_for_the_same_steps_from_the_same_positives(grown: Bench, client: Client) -> None:
    results = grown.results
    assert {cell.arm for cell in results} == set(Arm)
    assert {result.optimiser_steps for result in results.values()} == {STEPS}
    positives = {real_positives(client, name) for name in {result.dataset for result in results.values()}}
    assert [len(chosen) for chosen in positives] == [5]


def test_arms_differ_in_their_synthetic_defects_and_draw_from_one_pool(grown: Bench, client: Client) -> None:
    """Of 5 the mixed arm draws 3 and augments 2: the first of those that the other arms have."""
    images: dict[Arm, dict[int, list[str]]] = {}
    for cell, result in grown.results.items():
        request = assembly_pb2.ListDatasetImagesRequest(
            parent=result.dataset, split=common_pb2.SPLIT_TRAIN, page_size=1000
        )
        found: dict[int, list[str]] = {}
        for image in client.assembly.ListDatasetImages(request).images:
            found.setdefault(image.source, []).append(image.image.sha256)
        images[cell.arm] = found
    drawn, augmented = common_pb2.SOURCE_IN_DISTRIBUTION, common_pb2.SOURCE_OUT_OF_DISTRIBUTION
    assert len(images[Arm.DIFFUSION][drawn]) == len(images[Arm.PER_REGION][augmented]) == 5
    assert (len(images[Arm.MIXED][drawn]), len(images[Arm.MIXED][augmented])) == (3, 2)
    assert set(images[Arm.MIXED][drawn]) < set(images[Arm.DIFFUSION][drawn])
    assert set(images[Arm.MIXED][augmented]) < set(images[Arm.PER_REGION][augmented])
    assert not {drawn, augmented} & (images[Arm.NONE].keys() | images[Arm.CONTROL].keys())
    real = images[Arm.NONE][common_pb2.SOURCE_REAL]
    assert len(images[Arm.CONTROL][common_pb2.SOURCE_RECONSTRUCTED]) == len(real) - 5
    assert common_pb2.SOURCE_RECONSTRUCTED not in images[Arm.DIFFUSION]


def test_results_hold_every_test_image_and_its_score(grown: Bench) -> None:
    first, second = (grown.results[cell] for cell in grown.results if cell.arm is Arm.NONE)
    assert [score.image for score in first.test_scores] == [score.image for score in second.test_scores]
    assert [score.score for score in first.test_scores] != [score.score for score in second.test_scores]
    for result in grown.results.values():
        sources = [(score.source.value, score.label.value) for score in result.test_scores]
        assert sources.count(("real", "normal")) == 5
        assert sources.count(("real", "defect")) == 4
        assert sources.count(("reconstructed", "normal")) == 5
        alarms = [
            score.score >= result.at_threshold.threshold
            for score in result.test_scores
            if score.source.value == "reconstructed"
        ]
        assert result.reconstructed_false_alarm_rate == pytest.approx(sum(alarms) / 5)
    assert (grown.out / "report.md").read_text()
    assert (grown.out / "report.html").read_text()


def test_one_failing_arm_stops_no_other_and_is_tried_again(bench: Callable[[int], Bench], client: Client) -> None:
    made = bench(32)
    arms = (
        "--arms", "per-region", "none", "diffusion", "mixed", "--strategy", "inpaint", "--denoising-steps", "8",
        "--seeds", "1", "--parameter", "no_such=1", "--no-control-images",
        "--drawing-config", '{"alpha": 0, "inpaint": {"masks": "drawn", "defect_types": ["hole"]}}',
        "--prompt", "skt background, dark hole",
    )  # fmt: skip
    said = made.run(*arms, code=1)
    assert "few per-region 5, by steps, seed 0: failed" in said
    assert "few mixed 5, by steps, seed 0: failed" in said
    assert "no_such" in said
    assert "the same command tries them again" in said
    results = {cell.arm: result for cell, result in made.results.items()}
    assert results.keys() == {Arm.NONE, Arm.DIFFUSION}
    assert results[Arm.NONE].reconstructed_false_alarm_rate is None
    request = assembly_pb2.ListDatasetImagesRequest(
        parent=results[Arm.DIFFUSION].dataset, source=common_pb2.SOURCE_IN_DISTRIBUTION
    )
    inpainted = client.assembly.ListDatasetImages(request).images
    assert results[Arm.DIFFUSION].train_synthetic_defects == len(inpainted) > 0
    assert all(image.HasField("mask") and image.defect_type == "hole" for image in inpainted)
    product = results[Arm.DIFFUSION].dataset.partition("/datasets/")[0]
    prompts = client.generation.ListPrompts(generation_pb2.ListPromptsRequest(parent=product)).prompts
    assert [prompt.text for prompt in prompts] == ["skt background, dark hole"]
    # The mixed arm takes three of the five: two batches with one seed, from which the real positives follow as well.
    batches = client.generation.ListBatches(generation_pb2.ListBatchesRequest(parent=product)).batches
    assert sorted(batch.image_count for batch in batches) == [2, 3]
    assert {batch.seed for batch in batches} == {json.loads((made.out / "run.json").read_text())["settings"]["seed"]}
    assert "4 cells, 2 done before" in made.run(*arms, code=1)
    failures = [json.loads(line) for line in (made.out / "failures.jsonl").read_text().splitlines()]
    assert {failure["reason"] for failure in failures} == {failures[0]["reason"]}
    assert len(made.operations(client, "TrainClassifier")) == 2
    # At a merge weight of 0 there is no adapter to tune.
    assert not made.operations(client, "FineTuneAdapter")


def test_ctrl_c_leaves_a_run_that_goes_on(bench: Callable[[int], Bench], client: Client) -> None:
    """With `--vary everything`, which gives each seed positives of its own."""
    made = bench(33)
    arms = ("--arms", "none", "--seeds", "2", "--no-control-images", "--parallel", "2", "--vary", "everything")
    process = made.start(*arms)
    await_results(made, process, 1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 130, said
    assert "the same command continues" in said
    made.run(*arms)
    assert len(made.results) == 2
    assert len(made.operations(client, "TrainClassifier")) == 2
    chosen = [real_positives(client, result.dataset) for result in made.results.values()]
    assert [len(positives) for positives in chosen] == [5, 5]
    assert chosen[0] != chosen[1]
