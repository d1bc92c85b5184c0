"""Versions, and the champion alias: append-only objects beside the classifier, the newest counts."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from flawsmith.classification.manifests import ClassifierVersionManifest
from flawsmith.classification.triton_config import triton_model_name
from flawsmith.common.desired_models import DesiredModels
from flawsmith.common.errors import FailedPreconditionError, NotFoundError
from flawsmith.common.manifests import Manifest
from flawsmith.common.resources import Resources

_EVENTS = "deployments"


class Deployment(Manifest):
    """The champion alias moved to `version`; it answers through the Triton model `triton_model`.

    max_abs_diff_vs_onnxruntime: Triton against ONNX Runtime on the golden images, probability, when the version was
    deployed. operation: that moved it, so that a repeated step moves it once; empty for a roll-back.
    """

    action: Literal["deploy", "roll_back"]
    classifier: str
    version: str
    triton_model: str
    max_abs_diff_vs_onnxruntime: float
    deployed_by: str
    deploy_time: datetime
    operation: str = ""


class Registry:
    """Methods block; async code uses `asyncio.to_thread`."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def champion(self, classifier: str) -> Deployment:
        """The deployment that answers now.

        Raises NotFoundError CLASSIFIER_NOT_FOUND, FailedPreconditionError NO_CHAMPION.
        """
        deployed = self._stack(classifier)
        if deployed:
            return deployed[-1]
        if not self._resources.list_ids(classifier, "versions"):
            raise NotFoundError("CLASSIFIER_NOT_FOUND", f"{classifier} does not exist; train a version of it first")
        raise FailedPreconditionError("NO_CHAMPION", f"{classifier} has no deployed version; deploy one first")

    def version(self, name: str) -> ClassifierVersionManifest:
        """A version's manifest. Raises NotFoundError RESOURCE_NOT_FOUND."""
        return self._resources.get(name, ClassifierVersionManifest)[0]

    def deploy(self, deployment: Deployment) -> Deployment:
        """Move the alias to a version that is loaded and probed. The same operation moves it once."""
        events = self._resources.events(deployment.classifier, _EVENTS, Deployment)
        known = [event for event in events if event.operation and event.operation == deployment.operation]
        if known:
            return known[0]
        self._resources.append_event(deployment.classifier, _EVENTS, deployment)
        return deployment

    def before_champion(self, classifier: str) -> Deployment:
        """The deployment that a roll-back returns to.

        Raises the errors of `champion`; FailedPreconditionError NO_EARLIER_VERSION.
        """
        champion = self.champion(classifier)
        deployed = self._stack(classifier)
        if len(deployed) < 2:
            raise FailedPreconditionError(
                "NO_EARLIER_VERSION", f"{champion.version} is the first version that was deployed; deploy another one"
            )
        return deployed[-2]

    def roll_back(self, target: Deployment, principal: str, time: datetime) -> Deployment:
        """Move the alias to `target`, the answer of `before_champion`."""
        event = target.model_copy(
            update={"action": "roll_back", "deployed_by": principal, "deploy_time": time, "operation": ""}
        )
        self._resources.append_event(target.classifier, _EVENTS, event)
        return event

    def keep_deployed(self, desired: DesiredModels, classifier: str) -> None:
        """Want the champion loaded, and the version before it so that a roll-back is instant; forget the others."""
        wanted = {deployment.triton_model for deployment in self._stack(classifier)[-2:]}
        for model in sorted(wanted):
            desired.keep(model)
        for model in sorted(desired.kept(triton_model_name(f"{classifier}/versions/")) - wanted):
            desired.forget(model)

    def _stack(self, classifier: str) -> list[Deployment]:
        """Deployments that a roll-back can return to, the champion last.

        A roll-back drops what came after its target, so that a second one goes one further back, not forth again.
        """
        stack: list[Deployment] = []
        for event in self._resources.events(classifier, _EVENTS, Deployment):
            if event.action == "roll_back":
                while stack and stack[-1].version != event.version:
                    stack.pop()
                stack = [*stack[:-1], event]
            elif not stack or stack[-1].version != event.version:
                stack.append(event)
        return stack


def list_classifiers(resources: Resources) -> list[str]:
    """Names of all classifiers of all products."""
    return [
        f"products/{product}/classifiers/{classifier}"
        for product in resources.list_ids("", "products")
        for classifier in resources.list_ids(f"products/{product}", "classifiers")
    ]


def new_deployment(version: str, max_abs_diff: float, principal: str, time: datetime, operation: str) -> Deployment:
    """The deployment of a version under its own Triton model."""
    return Deployment(
        action="deploy",
        classifier=version.rpartition("/versions/")[0],
        version=version,
        triton_model=triton_model_name(version),
        max_abs_diff_vs_onnxruntime=max_abs_diff,
        deployed_by=principal,
        deploy_time=time,
        operation=operation,
    )
