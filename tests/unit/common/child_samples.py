"""A child for the tests: does what its specification says."""

from __future__ import annotations

import sys
import time
from typing import Any

from pydantic import BaseModel

from flawsmith.common.child import Reporter, child_main
from flawsmith.common.errors import AbortedError


class SampleSpec(BaseModel):
    what: str


def run(spec: SampleSpec, reporter: Reporter) -> dict[str, Any]:
    print("prints of libraries do not disturb")
    reporter.progress("work", 0, 2, loss=1.5)
    match spec.what:
        case "fail":
            raise AbortedError("SAMPLE_FAILED", "try another sample")
        case "crash":
            raise RuntimeError("last words")
        case "exit":
            sys.exit(3)
        case "sleep":
            time.sleep(600)
        case "full":
            raise OSError(28, "No space left on device")
        case "memory":
            raise MemoryError
    reporter.progress("work", 2, 2)
    return {"answer": 42}


if __name__ == "__main__":
    child_main(SampleSpec, run)
