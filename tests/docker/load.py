"""Runs in a container: classifies one image again and again until it is told to stop, then prints what came of it.

python load.py CLASSIFIER BASE64_OF_THE_IMAGE CALLS_A_SECOND
"""

from __future__ import annotations

import base64
import json
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from flawsmith.classification.v1.classification_pb2 import ClassifyRequest
from flawsmith.client import Client
from flawsmith.common.errors import FlawsmithError
from flawsmith.common.settings import Settings
from flawsmith.common.v1.common_pb2 import ImageSource


def main() -> None:
    classifier, image, rate = sys.argv[1], base64.b64decode(sys.argv[2]), float(sys.argv[3])
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    request = ClassifyRequest(classifier=classifier, image=ImageSource(content=image))
    latencies: list[float] = []
    failures: list[str] = []
    with Client(Settings().peers, principal="load") as client, ThreadPoolExecutor(8) as pool:

        def classify() -> None:
            started = time.monotonic()
            try:
                client.classification.Classify(request, timeout_s=30)
                latencies.append(time.monotonic() - started)
            except FlawsmithError as error:
                failures.append(f"{error.code}/{error.reason}: {error}")

        following = time.monotonic()
        while not stopped.is_set():
            pool.submit(classify)
            following += 1 / rate
            stopped.wait(max(0.0, following - time.monotonic()))
    print(json.dumps({"calls": len(latencies), "failures": failures, "slowest_s": max(latencies, default=0.0)}))


main()
