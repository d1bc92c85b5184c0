"""What a platform needs before its services start; run again, it changes nothing.

    python -m flawsmith.prepare [SECONDS]

waits for the object store and for Postgres, makes the bucket, migrates the job databases of the four services, and
publishes the base model and Triton's model code. It waits for SECONDS (180) for each. The local platform does the
same through the same functions.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from flawsmith.classification.registry import Registry, list_classifiers
from flawsmith.common import jobs, telemetry
from flawsmith.common.desired_models import DesiredModels
from flawsmith.common.errors import FlawsmithError, NotFoundError, UnavailableError
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import Resources
from flawsmith.common.settings import SERVICES, load_settings
from flawsmith.generation.catalog import BUILT_IN, install_base_model
from flawsmith.generation.serving import TEMPLATE, keep_only, publish_triton_models, triton_model

PATIENCE_S = 180.0

_LOG = telemetry.log(__name__)


def publish_models(store: ObjectStore, repository: str) -> None:
    """Put the base model and the code that draws into the object store, and want what is to be served: the base model's
    Triton model, and what the classifiers' aliases point to.

    repository: prefix of Triton's model repository. Raises NotFoundError (CHECKOUT_MISSING).
    """
    root, resources, desired = repository_root(), Resources(store), DesiredModels(store, repository)
    installed = install_base_model(resources, BUILT_IN, root / "models" / BUILT_IN)
    model = root / "deploy/triton" / TEMPLATE
    # config.pbtxt last: a folder without it is no model.
    store.put(f"{repository}/{TEMPLATE}/1/model.py", (model / "model.py").read_bytes())
    store.put(f"{repository}/{TEMPLATE}/config.pbtxt", (model / "config.pbtxt").read_bytes())
    publish_triton_models(resources, repository)
    keep_only(desired, triton_model(BUILT_IN, installed.sha256))
    registry = Registry(resources)
    for classifier in list_classifiers(resources):
        registry.keep_deployed(desired, classifier)


def repository_root() -> Path:
    """The folder with `models/` and `deploy/`: a checkout, or an image's. Raises NotFoundError (CHECKOUT_MISSING)."""
    for folder in (Path.cwd(), *Path(__file__).parents):
        if (folder / "models" / BUILT_IN).is_dir() and (folder / "deploy/triton").is_dir():
            return folder
    raise NotFoundError("CHECKOUT_MISSING", f"run this in a checkout of flawsmith: models/{BUILT_IN} is not here")


def main() -> None:
    """Do it all; exits with a sentence that says what did not answer in time."""
    # Process 1 of a container ends at no signal that it has no handler for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before it was done"))
    try:
        patience_s = float(sys.argv[1]) if len(sys.argv) > 1 else PATIENCE_S
    except ValueError:
        sys.exit("usage: python -m flawsmith.prepare [SECONDS]")
    settings = load_settings()
    telemetry.start(settings.telemetry, "prepare")
    store = ObjectStore(settings.object_store)
    try:
        _wait("make the bucket", store.ensure_bucket, patience_s)
        for service in SERVICES:
            _wait(f"migrate the jobs of {service}", partial(jobs.migrate, service, settings), patience_s)
        _wait("publish the models", lambda: publish_models(store, settings.triton.repository), patience_s)
    except FlawsmithError as error:
        sys.exit(f"{error.reason}: {error.message}")


def _wait(what: str, run: Callable[[], None], patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            run()
        except UnavailableError as error:
            if time.monotonic() > deadline:
                raise
            _LOG.warning("waiting", to=what, reason=error.reason, problem=error.message)
            time.sleep(1.0)
        else:
            _LOG.info("done", what=what)
            return


if __name__ == "__main__":
    main()
