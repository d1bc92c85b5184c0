"""Serving through the public API with a real Triton: aliases under load, shadow scores, formats, batches, streams, heat
maps, int8, and what bad input is answered with."""

from __future__ import annotations

import asyncio
import io
import signal
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import cv2
import grpc
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from flawsmith.classification.backbones import Backbone
from flawsmith.classification.export import Golden, choose_golden, export_onnx, make_golden
from flawsmith.classification.inference import OnnxClassifier
from flawsmith.classification.manifests import ClassifierVersionManifest
from flawsmith.classification.thresholds import Threshold
from flawsmith.classification.triton_config import onnxruntime_config, tensorrt_config, triton_model_name
from flawsmith.classification.v1 import classification_pb2 as pb
from flawsmith.classification.v1 import classification_pb2_grpc
from flawsmith.cli.main import main
from flawsmith.client import Client
from flawsmith.common.convert import to_message
from flawsmith.common.errors import FailedPreconditionError, FlawsmithError, UnavailableError
from flawsmith.common.images import encode_png
from flawsmith.common.manifests import (
    DatasetManifest,
    ImageRecord,
    Label,
    ObjectRef,
    Regime,
    Source,
    Split,
    SplitCounts,
)
from flawsmith.common.resources import Resources
from flawsmith.common.settings import ComputeSettings, JobSettings
from flawsmith.common.statuses import error_of, error_of_call
from flawsmith.common.triton import TritonClient
from flawsmith.common.v1 import common_pb2
from flawsmith.local.platform import LocalPlatform

SIDE = 32
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PRODUCT = "products/served"
CLASSIFIER = f"{PRODUCT}/classifiers/main"
VERSIONS = [f"{CLASSIFIER}/versions/v{number}" for number in (1, 2, 3)]
THRESHOLD = Threshold(id="0123456789ab", value=0.5, rule="written for this test")


class SmallClassifier(torch.nn.Module):
    """Takes and gives what every classifier does, and is quickly trained, stored and loaded."""

    def __init__(self) -> None:
        super().__init__()
        layers = [torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3, 2, 1), torch.nn.ReLU()]
        self.layers = torch.nn.Sequential(*layers)
        self.head = torch.nn.Linear(32, 1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = self.layers((images.permute(0, 3, 1, 2).float() - 128.0) / 128.0)
        embedding = maps.mean((2, 3))
        logit = self.head(embedding)
        evidence = torch.nn.functional.conv2d(maps, self.head.weight[:, :, None, None])[:, 0]
        return torch.sigmoid(logit), logit, evidence, embedding


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    """The classification service with a Triton of its own, which this module kills, and the object store."""
    jobs = JobSettings(heartbeat_s=1.0, silent_after_s=30.0, outage_patience_s=60.0)
    platform = LocalPlatform(
        tmp_path_factory.mktemp("serving"), free_ports=True, jobs_settings=jobs, services=("classification",)
    )
    platform.start()
    yield platform
    platform.stop()


@pytest.fixture
def client(platform: LocalPlatform) -> Iterator[Client]:
    with Client(platform.settings.peers, principal="tester") as client:
        yield client


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """120 pictures, uint8, and their labels; every second one is defective."""
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 2
    return np.stack([picture(bool(label), generator) for label in labels]), labels


@pytest.fixture(scope="module")
def graphs(
    pictures: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[Path, Path]]:
    """Exported graphs and golden images of three networks that differ: one network after 150, 170 and 190 steps."""
    images, labels = pictures
    torch.manual_seed(0)
    torch.set_num_threads(1)  # others compute on this machine too
    model = SmallClassifier()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    targets = torch.from_numpy(labels).float()[:, None]
    model.train()
    made = []
    for number in range(3):
        for step in range(150 if number == 0 else 20):
            chosen = torch.from_numpy(np.random.default_rng([number, step]).permutation(60)[:16])
            logits = model(torch.from_numpy(images)[chosen])[1]
            optimiser.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(logits, targets[chosen]).backward()
            optimiser.step()
        folder = tmp_path_factory.mktemp("graph")
        export_onnx(model, SIDE, SIDE, folder / "model.onnx")
        make_golden(model, images[choose_golden(labels)]).save(folder / "golden.npz")
        made.append((folder / "model.onnx", folder / "golden.npz"))
        model.train()
    return made


@pytest.fixture(scope="module")
def versions(
    platform: LocalPlatform, pictures: tuple[np.ndarray, np.ndarray], graphs: list[tuple[Path, Path]]
) -> list[str]:
    """Three published versions; half of the pictures is train, the other half test."""
    store, resources = platform.store, Resources(platform.store)
    records = [
        ImageRecord(
            image=store.put_blob(encode_png(image), ".png"),
            height=SIDE,
            width=SIDE,
            label=Label.DEFECT if label else Label.NORMAL,
            source=Source.REAL,
            split=Split.TRAIN if index < 60 else Split.TEST,
        )
        for index, (image, label) in enumerate(zip(*pictures, strict=True))
    ]
    dataset = DatasetManifest(
        name=f"{PRODUCT}/datasets/drawn", product=PRODUCT, regime=Regime.FULL_SHOT, images=tuple(records),
        counts={Split.TRAIN: SplitCounts()}, inputs=(), seed=0, create_time=NOW,
    )  # fmt: skip
    manifest = resources.publish(dataset.name, dataset)
    for name, (graph, golden) in zip(VERSIONS, graphs, strict=True):
        exported = store.put_file(graph)
        version = ClassifierVersionManifest(
            name=name, product="served", dataset_manifest=manifest, recipe="in-and-out", steps=30, epochs=1.0,
            batch_size=16, processes=1, final_loss=0.1, height=SIDE, width=SIDE, seed=0, onnx=exported,
            weights=exported, golden=store.put_file(golden), threshold=THRESHOLD, onnx_max_abs_diff=0.0,
            parameters={}, versions={}, create_time=NOW, report=exported, backbone=Backbone.RESNET18,
        )  # fmt: skip
        resources.publish(name, version)
    return VERSIONS


def picture(defect: bool, generator: np.random.Generator) -> np.ndarray:
    """Grey noise, with a bright square where it is defective."""
    image = generator.integers(90, 130, (SIDE, SIDE, 3)).astype(np.uint8)
    if defect:
        row, column = generator.integers(2, SIDE - 12, 2)
        image[row : row + 10, column : column + 10] = 230
    return image


def classify_request(
    classifier: str, content: bytes | None = None, ref: common_pb2.ObjectRef | None = None
) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(classifier=classifier, image=common_pb2.ImageSource(content=content, ref=ref))


def bitmap_header(width: int, height: int) -> bytes:
    """A valid header, and no pixels."""
    return struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, width, height, 1, 24, *[0] * 6)


def tiff_of_large_tiles() -> bytes:
    """One pixel in a compressed tile of 16,384 x 16,384."""
    tags = {256: 1, 257: 1, 258: 8, 259: 8, 262: 1, 277: 1, 322: 2**14, 323: 2**14, 324: 134, 325: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(5)


def wait_for(condition: Callable[[], object], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def deploy(client: Client, name: str, **fields: object) -> pb.Deployment:
    operation = client.classification.DeployClassifier(pb.DeployClassifierRequest(name=name, **fields))
    return client.wait(operation, pb.Deployment, timeout_s=200)


@pytest.fixture(scope="module")
def champion(platform: LocalPlatform, versions: list[str]) -> pb.Deployment:
    """The first version, deployed."""
    with Client(platform.settings.peers, principal="tester") as client:
        return deploy(client, versions[0])


@pytest.fixture(scope="module")
def session(graphs: list[tuple[Path, Path]]) -> OnnxClassifier:
    """The first version's graph in this process: the reference of every answer."""
    return OnnxClassifier(graphs[0][0], 1)


def test_three_runtimes_agree_before_an_alias_moves(champion: pb.Deployment) -> None:
    assert champion.version == VERSIONS[0]
    assert (champion.alias, champion.precision) == (pb.ALIAS_CHAMPION, pb.PRECISION_FP32)
    assert champion.max_abs_diff_vs_onnxruntime <= 1e-4
    assert 0 <= champion.max_abs_diff_vs_pytorch <= 1e-4
    assert (champion.sizes.height_min, champion.sizes.width_max) == (SIDE, SIDE)


@pytest.mark.parametrize("extension", [".png", ".jpg", ".bmp", ".tiff"])
@pytest.mark.parametrize("kind", ["RGB", "grey"])
@pytest.mark.parametrize("depth", [8, 16])
def test_every_format_and_depth_is_judged(
    client: Client, champion: pb.Deployment, session: OnnxClassifier, pictures: tuple[np.ndarray, np.ndarray],
    extension: str, kind: str, depth: int,
) -> None:  # fmt: skip
    if depth == 16 and extension in (".jpg", ".bmp"):
        depth = 8  # there is no such file
    pixels = pictures[0][1] if kind == "RGB" else pictures[0][1][:, :, 0]
    stored = pixels[:, :, ::-1] if kind == "RGB" else pixels
    data = cv2.imencode(extension, stored.astype(np.uint16) * 257 if depth == 16 else stored)[1].tobytes()
    with Image.open(io.BytesIO(cv2.imencode(extension, stored)[1].tobytes())) as decoded:
        expected = session.probabilities(np.asarray(decoded.convert("RGB"))[None])
    answer = client.classification.Classify(classify_request(CLASSIFIER, content=data))
    assert answer.score == pytest.approx(float(expected[0]), abs=1e-4)
    assert answer.threshold.id == THRESHOLD.id
    assert answer.verdict == (pb.VERDICT_DEFECTIVE if answer.score >= 0.5 else pb.VERDICT_OK)


def test_bad_images_have_exact_reasons(client: Client, platform: LocalPlatform, champion: pb.Deployment) -> None:
    good = encode_png(np.zeros((SIDE, SIDE, 3), np.uint8))
    cmyk = io.BytesIO()
    Image.new("CMYK", (SIDE, SIDE)).save(cmyk, "JPEG")
    ref = platform.store.put_blob(good, ".png")
    cases: dict[str, tuple[pb.ClassifyRequest, str, str]] = {
        name: (request, code, reason)
        for name, request, code, reason in [
            ("truncated", classify_request(CLASSIFIER, good[:60]), "INVALID_ARGUMENT", "IMAGE_UNREADABLE"),
            ("no image", classify_request(CLASSIFIER, b"GIF89a"), "INVALID_ARGUMENT", "IMAGE_UNREADABLE"),
            ("CMYK", classify_request(CLASSIFIER, cmyk.getvalue()), "INVALID_ARGUMENT", "IMAGE_MODE_UNSUPPORTED"),
            ("30k", classify_request(CLASSIFIER, bitmap_header(30_000, 30_000)), "INVALID_ARGUMENT", "IMAGE_TOO_LARGE"),
            ("1x1", classify_request(CLASSIFIER, encode_png(np.zeros((1, 1, 3), np.uint8))), "INVALID_ARGUMENT",
             "IMAGE_TOO_SMALL"),
            ("5 MiB", classify_request(CLASSIFIER, bytes(5 * 2**20)), "INVALID_ARGUMENT", "INLINE_IMAGE_TOO_LARGE"),
            # gRPC itself answers, and gives no reason.
            ("8 MiB", classify_request(CLASSIFIER, bytes(8 * 2**20)), "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"),
            ("nothing", pb.ClassifyRequest(classifier=CLASSIFIER), "INVALID_ARGUMENT", "IMAGE_MISSING"),
            ("no name", classify_request("main", good), "INVALID_ARGUMENT", "INVALID_NAME"),
            ("no classifier", classify_request(f"{PRODUCT}/classifiers/none", good), "NOT_FOUND",
             "CLASSIFIER_NOT_FOUND"),
            ("tiles", classify_request(CLASSIFIER, tiff_of_large_tiles()), "INVALID_ARGUMENT", "IMAGE_TOO_LARGE"),
            ("no product", classify_request("products/none/classifiers/main", good), "NOT_FOUND",
             "CLASSIFIER_NOT_FOUND"),
            ("no object", classify_request(CLASSIFIER, ref=common_pb2.ObjectRef(
                uri=f"s3://{platform.store.bucket}/none.png", sha256="0" * 64, size=1)), "NOT_FOUND",
             "OBJECT_NOT_FOUND"),
            ("other object", classify_request(CLASSIFIER, ref=common_pb2.ObjectRef(
                uri=ref.uri, sha256="0" * 64, size=1)), "DATA_LOSS", "OBJECT_CHANGED"),
            ("claimed to be short", classify_request(CLASSIFIER, ref=common_pb2.ObjectRef(
                uri=ref.uri, sha256=ref.sha256, size=1)), "DATA_LOSS", "OBJECT_CHANGED"),
            ("another bucket", classify_request(CLASSIFIER, ref=common_pb2.ObjectRef(
                uri="s3://elsewhere/a.png", sha256="0" * 64, size=1)), "INVALID_ARGUMENT", "FOREIGN_URI"),
            ("a file", classify_request(CLASSIFIER, ref=common_pb2.ObjectRef(
                uri="file:///etc/passwd", sha256="0" * 64, size=1)), "INVALID_ARGUMENT", "FOREIGN_URI"),
            ("no hash", classify_request(CLASSIFIER, ref=common_pb2.ObjectRef(
                uri=ref.uri, sha256="abc", size=1)), "INVALID_ARGUMENT", "INVALID_FIELDS"),
            ("empty reference", classify_request(CLASSIFIER, ref=common_pb2.ObjectRef()), "INVALID_ARGUMENT",
             "INVALID_FIELDS"),
            ("claimed size", classify_request(CLASSIFIER, ref=common_pb2.ObjectRef(
                uri=ref.uri, sha256=ref.sha256, size=2**40)), "INVALID_ARGUMENT", "STORED_IMAGE_TOO_LARGE"),
        ]
    }  # fmt: skip
    found = {}
    for name, (request, _, _) in cases.items():
        with pytest.raises(FlawsmithError) as error:
            client.classification.Classify(request)
        found[name] = (error.value.code, error.value.reason)
    assert found == {name: (code, reason) for name, (_, code, reason) in cases.items()}


def test_neither_alpha_nor_a_files_name_changes_the_answer(
    client: Client, platform: LocalPlatform, champion: pb.Deployment, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    image = pictures[0][1]
    alpha = np.random.default_rng(0).integers(0, 256, image.shape[:2], np.uint8)
    with_alpha, bitmap = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.dstack([image, alpha])).save(with_alpha, "PNG")
    Image.fromarray(image).save(bitmap, "BMP")
    ref = platform.store.put_blob(bitmap.getvalue(), ".png")
    expected = client.classification.Classify(classify_request(CLASSIFIER, encode_png(image))).score
    for request in (
        classify_request(CLASSIFIER, with_alpha.getvalue()),
        classify_request(CLASSIFIER, ref=to_message(ref, common_pb2.ObjectRef)),
    ):
        assert client.classification.Classify(request).score == pytest.approx(expected, abs=1e-6)


def test_a_batch_answers_each_image_by_itself(
    client: Client, champion: pb.Deployment, session: OnnxClassifier, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    files = [encode_png(image) for image in pictures[0][:40]]
    files[7] = b"not an image"
    answers = list(client.classify(CLASSIFIER, files))  # more than fit one call
    assert answers[7].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert error_of(answers[7].error).reason == "IMAGE_UNREADABLE"
    expected = session.probabilities(pictures[0][:40])
    for index in set(range(40)) - {7}:
        assert answers[index].score == pytest.approx(float(expected[index]), abs=1e-4)
    for images, reason in ([], "BATCH_SIZE"), ([b"x"] * 65, "BATCH_SIZE"), ([bytes(3 * 2**20)] * 2, "BATCH_TOO_LARGE"):
        request = pb.BatchClassifyRequest(
            classifier=CLASSIFIER, images=[common_pb2.ImageSource(content=image) for image in images]
        )
        with pytest.raises(FlawsmithError) as error:
            client.classification.BatchClassify(request)
        # Two times 3 MiB is more than a message takes; gRPC says so before we do.
        assert error.value.reason in (reason, "RESOURCE_EXHAUSTED")
    with pytest.raises(FlawsmithError) as error:
        list(client.classify(f"{PRODUCT}/classifiers/none", files[:1]))
    assert error.value.reason == "CLASSIFIER_NOT_FOUND"


def test_a_stream_goes_on_after_frames_that_cannot_be_judged(
    client: Client, champion: pb.Deployment, session: OnnxClassifier, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    def frames() -> Iterator[pb.ClassifyRequest]:
        for number in range(20):
            frame = classify_request(CLASSIFIER, encode_png(pictures[0][number]))
            frame.frame_id = f"frame-{number}"
            if number == 3:
                frame.image.content = b"smudge"
            if number == 5:
                frame.frame_timeout.FromMicroseconds(1)
            if number == 6:
                frame.classifier = "nobody"
            if number == 7:
                frame.frame_timeout.seconds = 2**62  # for ever
            yield frame

    answers = list(client.classification.ClassifyStream(frames()))
    assert [answer.frame_id for answer in answers] == [f"frame-{number}" for number in range(20)]
    failed = {number: error_of(answer.error).reason for number, answer in enumerate(answers) if answer.error.code}
    assert failed == {3: "IMAGE_UNREADABLE", 5: "FRAME_LATE", 6: "INVALID_NAME"}
    assert error_of(answers[5].error).code == "DEADLINE_EXCEEDED"
    expected = session.probabilities(pictures[0][:20])
    for number in set(range(20)) - failed.keys():
        assert answers[number].score == pytest.approx(float(expected[number]), abs=1e-4)


def test_a_sender_who_is_ahead_is_held_up(client: Client, platform: LocalPlatform, champion: pb.Deployment) -> None:
    sent, count = 0, 60
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    frame = classify_request(CLASSIFIER, encode_png(noise))  # 2.4 MB, so that buffers on the way hold few

    def frames() -> Iterator[pb.ClassifyRequest]:
        nonlocal sent
        for _ in range(count):
            sent += 1
            yield frame

    def still() -> bool:
        before = sent
        time.sleep(1)
        return 0 < before == sent

    client.classification.Classify(frame)  # the model is loaded
    # What is sent while nothing can be answered is what the way holds. Answers that wait to be fetched do not count.
    platform.processes["triton"].send(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        try:
            answers = pool.submit(lambda: list(client.classification.ClassifyStream(frames())))
            wait_for(still, 8)
            ahead = sent
        finally:
            platform.processes["triton"].send(signal.SIGCONT)
        assert len(answers.result()) == count
    assert ahead <= ComputeSettings().stream_window + 16


def test_a_heat_map_shows_where_the_defect_is(
    client: Client, champion: pb.Deployment, pictures: tuple[np.ndarray, np.ndarray], session: OnnxClassifier
) -> None:
    request = classify_request(CLASSIFIER, encode_png(pictures[0][1]))
    assert not client.classification.Classify(request).HasField("heat_map")
    request.heat_map = True
    drawn = client.classification.Classify(request).heat_map
    with Image.open(io.BytesIO(drawn.png)) as opened:
        assert (opened.size, opened.mode) == ((SIDE, SIDE), "L")
    assert drawn.method == "grad-cam"
    evidence = session.run(pictures[0][1:2], ["heat_map"])["heat_map"]
    assert drawn.peak == pytest.approx(max(0.0, float(evidence.max())), abs=1e-3)


def test_metrics_tell_scores_verdicts_and_drift(
    platform: LocalPlatform, client: Client, champion: pb.Deployment, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    def sample(series: str) -> float:
        address = platform.metrics["classification-api"]
        text = urllib.request.urlopen(f"http://{address}/metrics", timeout=5).read().decode()
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return float(values.get(series, 0.0))

    labels = 'classifier="main",precision="fp32",product="served"'
    series = f'flawsmith_classifier_score_count{{{labels},version="v1"}}'
    before = sample(series)
    answers = list(client.classify(CLASSIFIER, [encode_png(image) for image in pictures[0][:30]]))
    assert sample(series) == before + len(answers)
    verdicts = f'flawsmith_classifier_verdicts_total{{{labels},verdict="defective",version="v1"}}'
    assert sample(verdicts) >= sum(answer.verdict == pb.VERDICT_DEFECTIVE for answer in answers)
    drift = f'flawsmith_classifier_embedding_drift{{{labels},version="v1"}}'
    list(client.classify(CLASSIFIER, [encode_png(image) for image in pictures[0][0:60:2]] * 2))  # normals alone
    calm = sample(drift)
    list(client.classify(CLASSIFIER, [encode_png(255 - image) for image in pictures[0][0:60:2]] * 2))
    assert sample(drift) > 3 * calm


def test_other_sizes_are_refused_where_the_deployment_says_so(
    client: Client, platform: LocalPlatform, versions: list[str], champion: pb.Deployment
) -> None:
    """Under a name of its own, for the other tests send other sizes."""
    name = f"{PRODUCT}/classifiers/strict/versions/v1"
    resources = Resources(platform.store)
    manifest, _ = resources.get(versions[0], ClassifierVersionManifest)
    resources.publish(name, manifest.model_copy(update={"name": name}))
    deploy(client, name, size_policy=pb.SIZE_POLICY_REFUSE)
    classifier = f"{PRODUCT}/classifiers/strict"
    fitting, other = (encode_png(np.zeros((side, SIDE, 3), np.uint8)) for side in (SIDE, SIDE + 1))
    assert client.classification.Classify(classify_request(classifier, fitting)).version == name
    with pytest.raises(FlawsmithError) as error:
        client.classification.Classify(classify_request(classifier, other))
    assert (error.value.code, error.value.reason) == ("INVALID_ARGUMENT", "IMAGE_SIZE_UNEXPECTED")
    assert client.classification.Classify(classify_request(CLASSIFIER, other)).version == versions[0]


def test_promotion_and_roll_back_lose_no_call_under_load(
    platform: LocalPlatform, client: Client, champion: pb.Deployment, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    first, second, third = VERSIONS
    files = [encode_png(image) for image in pictures[0][:16]]
    stopped, answers, failures = threading.Event(), [], []

    def send(offset: int) -> None:
        # The plain stub without any retry of ours or the channel's: a lost call is a failed one.
        with grpc.insecure_channel(
            platform.settings.peers.classification, options=[("grpc.enable_retries", 0)]
        ) as channel:
            stub = classification_pb2_grpc.ClassificationServiceStub(channel)
            number = offset
            while not stopped.is_set():
                number += 1
                try:
                    answer = stub.Classify(classify_request(CLASSIFIER, files[number % 16]), timeout=30)
                    answers.append((number % 16, answer))
                except grpc.RpcError as error:
                    failures.append(error)

    with ThreadPoolExecutor(4) as pool:
        senders = [pool.submit(send, offset) for offset in range(4)]
        try:
            candidate = deploy(client, second, alias=pb.ALIAS_CANDIDATE)
            assert candidate.alias == pb.ALIAS_CANDIDATE
            aliases = client.classification.GetClassifier(pb.GetClassifierRequest(name=CLASSIFIER))
            assert (aliases.champion.version, aliases.candidate.version) == (first, second)
            assert answers[-1][1].version == first  # a candidate answers nobody
            with pytest.raises(FailedPreconditionError) as error:
                client.classification.PromoteClassifier(pb.PromoteClassifierRequest(name=CLASSIFIER, version=third))
            assert error.value.reason == "CANDIDATE_CHANGED"
            promoted = client.classification.PromoteClassifier(
                pb.PromoteClassifierRequest(name=CLASSIFIER, version=second)
            )
            assert (promoted.version, promoted.deployed_by) == (second, "tester")
            wait_for(lambda: answers[-1][1].version == second, 10)
            back = client.classification.RollBackClassifier(pb.RollBackClassifierRequest(name=CLASSIFIER))
            assert back.version == first
            wait_for(lambda: answers[-1][1].version == first, 10)
        finally:
            stopped.set()
            for sender in senders:
                sender.result(60)
    assert failures == []
    assert {answer.version for _, answer in answers} == {first, second}
    # Every answer is the right one of the version that it names.
    scores: dict[tuple[str, int], set[float]] = {}
    for index, answer in answers:
        scores.setdefault((answer.version, index), set()).add(round(answer.score, 4))
    assert all(max(found) - min(found) <= 2e-4 for found in scores.values())
    wait_for(lambda: triton_model_name(second) not in loaded(platform), 120)  # nobody wants it any more


def test_shadow_scores_stand_beside_the_champions(
    platform: LocalPlatform,
    client: Client,
    champion: pb.Deployment,
    pictures: tuple[np.ndarray, np.ndarray],
    graphs: list[tuple[Path, Path]],
    session: OnnxClassifier,
) -> None:
    with pytest.raises(FailedPreconditionError) as error:
        client.classification.GetShadowReport(pb.GetShadowReportRequest(name=CLASSIFIER))
    assert error.value.reason == "NO_CANDIDATE"
    deploy(client, VERSIONS[2], alias=pb.ALIAS_CANDIDATE)
    time.sleep(1.1)  # an alias is believed for one second
    images = pictures[0][60:80]
    list(client.classify(CLASSIFIER, [encode_png(image) for image in images]))

    def report() -> pb.ShadowReport:
        return client.classification.GetShadowReport(pb.GetShadowReportRequest(name=CLASSIFIER))

    wait_for(lambda: report().images >= len(images), 60)
    found, candidate = report(), OnnxClassifier(graphs[2][0], 1).probabilities(images)
    ours = session.probabilities(images)
    assert found.mean_abs_diff == pytest.approx(float(np.abs(candidate - ours).mean()), abs=1e-4)
    assert found.agreeing == int(((candidate >= 0.5) == (ours >= 0.5)).sum())
    assert found.agreement_low <= found.agreeing / found.images <= found.agreement_high
    assert len(found.disagreements) == found.images - found.agreeing
    lines = b"".join(stored(platform, ref) for ref in found.scores).splitlines()
    assert len(lines) >= len(images)
    left = client.classification.WithdrawCandidate(pb.WithdrawCandidateRequest(name=CLASSIFIER))
    assert not left.HasField("candidate")
    assert left.champion.version == champion.version


def test_int8_is_deployed_once_its_export_has_passed(
    platform: LocalPlatform, client: Client, champion: pb.Deployment, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    with pytest.raises(FailedPreconditionError) as error:
        deploy(client, VERSIONS[0], precision=pb.PRECISION_INT8, alias=pb.ALIAS_CANDIDATE)
    assert error.value.reason == "VARIANT_MISSING"
    request = pb.ExportClassifierRequest(name=VERSIONS[0], format=pb.EXPORT_FORMAT_ONNX_INT8)
    made = client.wait(client.classification.ExportClassifier(request), pb.ClassifierExport, timeout_s=250)
    assert made.name == f"{VERSIONS[0]}/exports/onnx-int8"
    assert made.gate.ap_difference_low >= -0.01
    again = client.wait(client.classification.ExportClassifier(request), pb.ClassifierExport, timeout_s=60)
    assert again == made
    (file,) = made.files
    data = stored(platform, file.file)
    deployed = deploy(client, VERSIONS[0], precision=pb.PRECISION_INT8, alias=pb.ALIAS_CANDIDATE)
    assert deployed.precision == pb.PRECISION_INT8
    assert not deployed.HasField("max_abs_diff_vs_pytorch")
    client.classification.PromoteClassifier(pb.PromoteClassifierRequest(name=CLASSIFIER, version=VERSIONS[0]))
    answers = list(client.classify(CLASSIFIER, [encode_png(image) for image in pictures[0][:8]]))
    assert {answer.precision for answer in answers} == {pb.PRECISION_INT8}
    expected = OnnxClassifier(data, 1).probabilities(pictures[0][:8])
    assert [answer.score for answer in answers] == pytest.approx(expected.tolist(), abs=1e-4)
    client.classification.RollBackClassifier(pb.RollBackClassifierRequest(name=CLASSIFIER))


def test_a_version_that_answers_otherwise_moves_no_alias(
    platform: LocalPlatform, client: Client, champion: pb.Deployment, graphs: list[tuple[Path, Path]]
) -> None:
    resources = Resources(platform.store)
    manifest, _ = resources.get(VERSIONS[0], ClassifierVersionManifest)
    golden = Golden.load(graphs[0][1])
    moved = io.BytesIO()
    np.savez(moved, images=golden.images, probability=golden.probability + np.float32(0.001))
    old = onnx.load(graphs[0][0])
    del old.graph.output[2:]  # what an earlier release exported
    changes = {
        "otherwise": ({"golden": platform.store.put_blob(moved.getvalue(), ".npz")}, "PARITY_GATE_FAILED"),
        "earlier": ({"onnx": platform.store.put_blob(old.SerializeToString(), ".onnx")}, "VERSION_OUTDATED"),
    }
    for name, (change, reason) in changes.items():
        version = f"{CLASSIFIER}/versions/{name}"
        resources.publish(version, manifest.model_copy(update={"name": version, **change}))
        with pytest.raises(FlawsmithError) as error:
            deploy(client, version)
        assert error.value.reason == reason
        aliases = client.classification.GetClassifier(pb.GetClassifierRequest(name=CLASSIFIER))
        assert aliases.champion.version == champion.version
    wait_for(lambda: triton_model_name(f"{CLASSIFIER}/versions/otherwise") not in loaded(platform), 120)


def test_more_calls_than_places_are_told_to_come_later(
    platform: LocalPlatform, champion: pb.Deployment, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    most = ComputeSettings().max_pending // 2  # of one caller
    request = classify_request(CLASSIFIER, encode_png(pictures[0][0]))
    with grpc.insecure_channel(platform.settings.peers.classification) as channel:
        stub = classification_pb2_grpc.ClassificationServiceStub(channel)
        stub.Classify(request, timeout=60)
        platform.processes["triton"].send(signal.SIGSTOP)
        try:
            calls = [stub.Classify.future(request, timeout=60) for _ in range(most + 20)]
            wait_for(lambda: sum(call.done() for call in calls) >= 20, 60)
        finally:
            platform.processes["triton"].send(signal.SIGCONT)
        errors = [error_of_call(call.exception()) for call in calls if call.exception() is not None]
    refused = [error for error in errors if error.reason == "QUEUE_FULL"]
    assert len(refused) == 20
    assert all(error.code == "RESOURCE_EXHAUSTED" and error.retry_after_s for error in refused)


def test_the_command_line_says_what_it_could_not_judge(
    platform: LocalPlatform, champion: pb.Deployment, pictures: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(encode_png(pictures[0][1]))
    bad.write_bytes(b"smudge")

    def flawsmith(*arguments: object) -> Result:
        return CliRunner().invoke(main, ["--state", str(platform.state_dir), *map(str, arguments)])

    done = flawsmith("classify", good, bad, "--classifier", CLASSIFIER, "--heat-maps", tmp_path / "maps")
    assert done.exit_code == 1
    assert [line.split()[0] for line in done.output.splitlines()] == ["defective", "error"]
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["good.heat-map.png"]
    assert flawsmith("classify", good, "--classifier", CLASSIFIER).exit_code == 0
    assert flawsmith("candidate", "show", CLASSIFIER).exit_code == 1


async def test_the_real_server_parses_every_config(platform: LocalPlatform) -> None:
    """It has no onnxruntime or tensorrt backend, and says just that: nothing is wrong with what comes before."""
    triton = TritonClient(platform.settings.triton)
    try:
        for name, text in (("onnx-config", onnxruntime_config), ("plan-config", tensorrt_config)):
            repository = platform.settings.triton.repository
            for file in ("model.onnx", "model.plan"):
                platform.store.put(f"{repository}/{name}/1/{file}", b"graph")
            platform.store.put(f"{repository}/{name}/config.pbtxt", text(name, 600, 200).encode())
            with pytest.raises(FailedPreconditionError) as error:
                await triton.load(name)
            assert "unable to find backend library" in error.value.message
    finally:
        await triton.close()


def test_without_triton_the_client_waits_and_then_says_so(
    platform: LocalPlatform, client: Client, champion: pb.Deployment, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    data = encode_png(pictures[0][0])
    before = client.classification.Classify(classify_request(CLASSIFIER, data))
    platform.processes["triton"].kill()
    try:
        with pytest.raises(UnavailableError) as error:
            client.classification.Classify(classify_request(CLASSIFIER, data))
        assert error.value.reason in ("TRITON_UNAVAILABLE", "MODEL_NOT_LOADED")
        assert error.value.retry_after_s
        (late,) = client.classify(CLASSIFIER, [data], timeout_s=10.0)
        assert error_of(late.error).code == "UNAVAILABLE"
        waiting = ThreadPoolExecutor(1).submit(lambda: list(client.classify(CLASSIFIER, [data], timeout_s=200.0)))
    finally:
        platform.processes["triton"].start()
    (answer,) = waiting.result(250)
    assert answer.score == pytest.approx(before.score, abs=1e-6)


def test_the_example_classifies_in_five_lines(
    platform: LocalPlatform, client: Client, champion: pb.Deployment, tmp_path: Path
) -> None:
    path = tmp_path / "part.png"
    path.write_bytes(encode_png(np.zeros((SIDE, SIDE, 3), np.uint8)))
    example = Path(__file__).parents[2] / "examples/classify.py"
    done = subprocess.run(
        [sys.executable, str(example), platform.settings.peers.classification, CLASSIFIER, str(path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert THRESHOLD.id in done.stdout


def stored(platform: LocalPlatform, ref: common_pb2.ObjectRef) -> bytes:
    return platform.store.get(ObjectRef(uri=ref.uri, sha256=ref.sha256, size=ref.size))


def loaded(platform: LocalPlatform) -> frozenset[str]:
    async def ask() -> frozenset[str]:
        triton = TritonClient(platform.settings.triton)
        try:
            return await triton.loaded_models()
        finally:
            await triton.close()

    return asyncio.run(ask())
