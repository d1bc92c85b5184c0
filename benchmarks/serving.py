"""Is answering as quick as computing? Classify through gRPC and Triton, against a bare loop over ONNX Runtime.

    .venv/bin/python -m benchmarks.serving --json out/serving.json

The whole platform runs on this machine with real servers, and a ResNet-50 of random weights in fp32 and in int8, which
computes what a trained one does. The bare loop, one process and no server, decodes the same files and runs ONNX Runtime
with the same number of threads, one image after the other. The two take turns. Beside them stands the least that a gRPC
server of Python's adds: one without Triton, interceptors or anything else (`benchmarks.serving_sides`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import torch

from benchmarks.bare_inference import SIZE, infer, open_session
from benchmarks.figures import ratios, summary
from benchmarks.plates import plates
from flawsmith.classification.backbones import Backbone
from flawsmith.classification.export import export_onnx, make_golden
from flawsmith.classification.exports import ClassifierExportManifest, ExportedFile, export_name
from flawsmith.classification.manifests import ClassifierVersionManifest
from flawsmith.classification.model import ResNetClassifier
from flawsmith.classification.preprocess import preprocess
from flawsmith.classification.quantising import quantise
from flawsmith.classification.thresholds import Threshold
from flawsmith.classification.triton_config import SERVING_THREADS
from flawsmith.classification.v1 import classification_pb2 as pb
from flawsmith.classification.v1 import classification_pb2_grpc
from flawsmith.client import Client
from flawsmith.common.images import decode_image, encode_png
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
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import Resources
from flawsmith.common.v1 import common_pb2
from flawsmith.local.platform import LocalPlatform

CLASSIFIER = "products/benchmark/classifiers/main"
VERSION = f"{CLASSIFIER}/versions/random"
FILES = 32
PRECISIONS = ("fp32", "int8")
TURNS = 6
"""Of a round, in which one client is compared: neighbours are a second apart, for machines get faster and slower."""
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=6, help="turns of each side and precision")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each turn")
    parser.add_argument("--clients", type=int, default=8)
    arguments = parser.parse_args()
    found = measure(rounds=arguments.rounds, seconds=arguments.seconds, clients=arguments.clients)
    for name, value in found.items():
        print(f"{name:28} {json.dumps(value)}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=1))


def measure(*, rounds: int, seconds: float, clients: int) -> dict[str, Any]:
    """All figures: images a second, milliseconds. rounds: at least 2."""
    cv2.setNumThreads(1)
    files = [encode_png(image) for image in plates(FILES, *SIZE)]
    with tempfile.TemporaryDirectory() as folder:
        graphs, golden = _graphs(Path(folder))
        with _platform(Path(folder) / "state") as platform, _client(platform) as client, ExitStack() as stack:
            _publish(platform.store, graphs, golden, files)
            ours = client.classification
            plain = {precision: stack.enter_context(_plain_server(graphs[precision])) for precision in PRECISIONS}
            bare = {precision: _bare_loop(graphs[precision], files) for precision in PRECISIONS}
            speeds: dict[str, list[float]] = {f"{side}_{p}": [] for side in ("bare", "served") for p in PRECISIONS}
            under_load: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
            one: dict[str, list[float]] = {
                f"{side}_{p}": [] for side in ("bare", "plain", "served") for p in PRECISIONS
            }
            for precision in itertools.chain.from_iterable([PRECISIONS] * rounds):
                _deploy(client, precision, files[0])
                _send(ours, files, 1.0, clients, precision)  # warm
                bare[precision](1.0)
                decoding = _seconds_to_decode(files)
                latencies = bare[precision](seconds)
                speeds[f"bare_{precision}"].append(len(latencies) / sum(latencies))
                started = time.perf_counter()
                latencies = _send(ours, files, seconds, clients, precision)
                speeds[f"served_{precision}"].append(len(latencies) / (time.perf_counter() - started))
                under_load[precision] += latencies
                for _ in range(TURNS):
                    for side, run in (
                        ("bare", bare[precision]),
                        ("plain", partial(_send, plain[precision], files, clients=1)),
                        ("served", partial(_send, ours, files, clients=1, precision=precision)),
                    ):
                        one[f"{side}_{precision}"].append(1000 * statistics.median(run(seconds=seconds / 8)))
    added = {
        f"{side}_{p}": [more - less for more, less in zip(one[f"{side}_{p}"], one[f"bare_{p}"], strict=True)]
        for side in ("plain", "served")
        for p in PRECISIONS
    }
    return {
        "size": "{}x{}".format(*SIZE),
        "clients": clients,
        "threads": SERVING_THREADS,
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "file_bytes": round(statistics.mean(map(len, files))),
        "decoding_ms": round(1000 * decoding, 2),
        **{name: summary(values) for name, values in speeds.items()},
        **{f"served_over_bare_{p}": summary(ratios(speeds[f"served_{p}"], speeds[f"bare_{p}"]), 3) for p in PRECISIONS},
        "int8_over_fp32_served": summary(ratios(speeds["served_int8"], speeds["served_fp32"]), 2),
        **{f"p50_under_load_ms_{p}": _percentile(under_load[p], 50) for p in PRECISIONS},
        **{f"p99_under_load_ms_{p}": _percentile(under_load[p], 99) for p in PRECISIONS},
        **{f"one_client_ms_{p}": summary(one[f"served_{p}"]) for p in PRECISIONS},
        # One client's answer less the bare loop's time for an image, which decodes as well.
        **{f"added_latency_ms_{p}": summary(added[f"served_{p}"], 2) for p in PRECISIONS},
        # The same less ONNX Runtime's time alone.
        **{
            f"added_latency_with_decoding_ms_{p}": summary(
                [value + 1000 * decoding for value in added[f"served_{p}"]], 2
            )
            for p in PRECISIONS
        },
        **{f"added_latency_of_plain_server_ms_{p}": summary(added[f"plain_{p}"], 2) for p in PRECISIONS},
    }


def _bare_loop(graph: Path, files: list[bytes]) -> Callable[[float], list[float]]:
    """Seconds for each image, in order, for so many seconds."""
    session = open_session(graph)

    def run(seconds: float) -> list[float]:
        found: list[float] = []
        end = time.perf_counter() + seconds
        for data in itertools.cycle(files):
            start = time.perf_counter()
            if start > end:
                return found
            infer(session, data)
            found.append(time.perf_counter() - start)
        raise AssertionError

    return run


@contextmanager
def _plain_server(graph: Path) -> Iterator[classification_pb2_grpc.ClassificationServiceStub]:
    """A stub of `benchmarks.serving_sides`."""
    command = [sys.executable, "-m", "benchmarks.serving_sides", str(graph)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with grpc.insecure_channel(f"127.0.0.1:{int(process.stdout.readline())}") as channel:
                yield classification_pb2_grpc.ClassificationServiceStub(channel)
        finally:
            process.stdin.close()


def _send(
    stub: classification_pb2_grpc.ClassificationServiceStub,
    files: list[bytes],
    seconds: float,
    clients: int,
    precision: str | None = None,
) -> list[float]:
    """Seconds for each answer to clients who send one image after the other, for so many seconds. precision: that all
    answers must have."""
    requests = [pb.ClassifyRequest(classifier=CLASSIFIER, image=common_pb2.ImageSource(content=data)) for data in files]
    wanted = pb.Precision.Value(f"PRECISION_{precision.upper()}") if precision else pb.PRECISION_UNSPECIFIED
    found: list[float] = []
    problems: list[Exception] = []
    end = time.perf_counter() + seconds

    def send(offset: int) -> None:
        try:
            for request in itertools.islice(itertools.cycle(requests), offset, None):
                start = time.perf_counter()
                if start > end:
                    return
                answer = stub.Classify(request)
                found.append(time.perf_counter() - start)
                if answer.precision != wanted:
                    raise RuntimeError(f"{answer.version} answered in another precision than {precision}")
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=send, args=(offset,)) for offset in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return found


def _seconds_to_decode(files: list[bytes]) -> float:
    times = []
    for data in files:
        start = time.perf_counter()
        preprocess(decode_image(data), *SIZE)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _graphs(folder: Path) -> tuple[dict[str, Path], Path]:
    """ResNet-50 with random weights in both precisions, and its golden images."""
    torch.manual_seed(0)
    model = ResNetClassifier(Backbone.RESNET50)
    torch.nn.init.normal_(model.head.weight, std=0.05)
    pictures = plates(8, *SIZE, seed=1)
    paths = {precision: folder / f"{precision}.onnx" for precision in PRECISIONS}
    export_onnx(model, *SIZE, paths["fp32"])
    make_golden(model, pictures).save(folder / "golden.npz")
    quantise(paths["fp32"], paths["int8"], iter(pictures))
    return paths, folder / "golden.npz"


def _publish(store: ObjectStore, graphs: dict[str, Path], golden: Path, files: list[bytes]) -> None:
    """The version, and its int8 variant without the gate: random weights have no quality to lose."""
    resources = Resources(store)
    records = [
        ImageRecord(
            image=store.put_blob(data, ".png"), height=SIZE[0], width=SIZE[1], label=Label.NORMAL, source=Source.REAL,
            split=Split.VALIDATION,
        )
        for data in files[:8]
    ]  # fmt: skip
    dataset = DatasetManifest(
        name="products/benchmark/datasets/plates", product="products/benchmark", regime=Regime.FULL_SHOT,
        images=tuple(records), counts={Split.VALIDATION: SplitCounts()}, inputs=(), seed=0, create_time=_NOW,
    )  # fmt: skip
    onnx, reference = store.put_file(graphs["fp32"]), resources.publish(dataset.name, dataset)
    version = ClassifierVersionManifest(
        name=VERSION, product="benchmark", dataset_manifest=reference, recipe="in-and-out", backbone=Backbone.RESNET50,
        steps=0, epochs=0.0, batch_size=1, processes=1, final_loss=0.0, height=SIZE[0], width=SIZE[1], seed=0,
        onnx=onnx, weights=onnx, golden=store.put_file(golden),
        threshold=Threshold(id="benchmark", value=0.5, rule="none"), onnx_max_abs_diff=0.0, parameters={}, versions={},
        create_time=_NOW,
    )  # fmt: skip
    resources.publish(VERSION, version)
    int8: ObjectRef = store.put_file(graphs["int8"])
    name = export_name(VERSION, "onnx_int8")
    export = ClassifierExportManifest(
        name=name, format="onnx_int8", files=(ExportedFile(name="model.onnx", file=int8),), max_abs_diff_vs_pytorch=0.0,
        create_time=_NOW, versions={},
    )  # fmt: skip
    resources.publish(name, export)


def _deploy(client: Client, precision: str, file: bytes) -> None:
    """Returns when answers come from the variant: within a second after the alias moved."""
    request = pb.DeployClassifierRequest(name=VERSION, precision=f"PRECISION_{precision.upper()}")
    deployed = client.wait(client.classification.DeployClassifier(request), pb.Deployment, timeout_s=300)
    image = common_pb2.ImageSource(content=file)
    ask = pb.ClassifyRequest(classifier=CLASSIFIER, image=image)
    while client.classification.Classify(ask).precision != deployed.precision:
        time.sleep(0.1)


@contextmanager
def _platform(state: Path) -> Iterator[LocalPlatform]:
    platform = LocalPlatform(state, free_ports=True, services=("classification",))
    platform.start()
    try:
        yield platform
    finally:
        platform.stop()


def _client(platform: LocalPlatform) -> Client:
    return Client(platform.settings.peers, principal="benchmark")


def _percentile(seconds: list[float], share: int) -> float:
    return round(1000 * float(np.percentile(seconds, share)), 1)


if __name__ == "__main__":
    main()
