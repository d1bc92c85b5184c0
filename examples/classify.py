"""Another service asks whether a part is defective: gRPC and the generated stubs, nothing else of flawsmith's.

    python examples/classify.py 127.0.0.1:7104 products/PRODUCT/classifiers/main part.png

`flawsmith.client.Client.classify` adds batches and retries; CI runs this file as it is.
"""

import sys
from pathlib import Path

import grpc

from flawsmith.classification.v1 import classification_pb2, classification_pb2_grpc
from flawsmith.common.v1.common_pb2 import ImageSource

address, classifier, path = sys.argv[1:]
service = classification_pb2_grpc.ClassificationServiceStub(grpc.insecure_channel(address))
image = ImageSource(content=Path(path).read_bytes())
answer = service.Classify(classification_pb2.ClassifyRequest(classifier=classifier, image=image), timeout=10)
print(classification_pb2.Verdict.Name(answer.verdict), answer.score, answer.version, answer.threshold.id)
