"""Versions, and the aliases champion and candidate: append-only objects beside the classifier, the newest counts."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

from flawsmith.classification.manifests import ClassifierVersionManifest
from flawsmith.classification.triton_config import triton_model_name
from flawsmith.classification.variants import Precision
from flawsmith.common.desired_models import DesiredModels
from flawsmith.common.errors import FailedPreconditionError, FieldViolation, NotFoundError
from flawsmith.common.manifests import Manifest, ObjectRef
from flawsmith.common.resources import Resources

_EVENTS = "deployments"

Alias = Literal["champion", "candidate"]
SizePolicy = Literal["resize", "refuse"]


class SizeRange(Manifest):
    """Heights and widths that the data set's real images have, pixels."""

    height_min: int
    height_max: int
    width_min: int
    width_max: int

    def includes(self, height: int, width: int) -> bool:
        """Whether an image is as large as the product's."""
        return self.height_min <= height <= self.height_max and self.width_min <= width <= self.width_max


class Deployment(Manifest):
    """An alias moved to `version`, which answers through the Triton model `triton_model`.

    max_abs_diff_vs_onnxruntime, max_abs_diff_vs_pytorch: Triton against ONNX Runtime and eager PyTorch on the golden
    images, probability, when the version was deployed; the latter None for int8. sizes: of the product's images.
    embeddings: `EmbeddingStatistics` of the product's normals, None where there were too few. operation: that moved
    the alias, so that a repeated step moves it once; empty for what is no operation.
    """

    action: Literal["deploy", "promote", "roll_back", "withdraw"]
    alias: Alias = "champion"
    classifier: str
    version: str
    precision: Precision = "fp32"
    triton_model: str
    max_abs_diff_vs_onnxruntime: float
    max_abs_diff_vs_pytorch: float | None = None
    size_policy: SizePolicy = "resize"
    sizes: SizeRange | None = None
    embeddings: ObjectRef | None = None
    deployed_by: str
    deploy_time: datetime
    operation: str = ""


class Aliases(NamedTuple):
    """Where a classifier's aliases point. champions: those that a roll-back can return to, the present one last."""

    champions: tuple[Deployment, ...]
    candidate: Deployment | None

    @property
    def champion(self) -> Deployment | None:
        """What answers."""
        return self.champions[-1] if self.champions else None

    @property
    def previous(self) -> Deployment | None:
        """What a roll-back returns to."""
        return self.champions[-2] if len(self.champions) > 1 else None


class Registry:
    """Methods block; async code uses `asyncio.to_thread`."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._events: dict[str, dict[str, Deployment]] = {}

    def aliases(self, classifier: str) -> Aliases:
        """Where the aliases point now. Raises NotFoundError CLASSIFIER_NOT_FOUND."""
        champions: list[Deployment] = []
        candidate: Deployment | None = None
        for event in self._log(classifier):
            if event.action == "withdraw":
                candidate = None
            elif event.alias == "candidate":
                # `deploy` refuses the champion, but another process may have promoted it between check and event.
                candidate = None if champions and _same(champions[-1], event) else event
            else:
                if candidate is not None and _same(candidate, event):
                    candidate = None  # it would be compared with itself
                if event.action == "roll_back":
                    # What came after its target is dropped, so that a second one goes one further back, not forth
                    # again.
                    while champions and not _same(champions[-1], event):
                        champions.pop()
                if champions and _same(champions[-1], event):
                    champions[-1] = event  # no step that a roll-back could undo, but another size policy counts
                else:
                    champions.append(event)
        if not champions and candidate is None and not self._resources.list_ids(classifier, "versions"):
            raise NotFoundError("CLASSIFIER_NOT_FOUND", f"{classifier} does not exist; train a version of it first")
        return Aliases(tuple(champions), candidate)

    def champion(self, classifier: str) -> Deployment:
        """The deployment that answers now.

        Raises NotFoundError CLASSIFIER_NOT_FOUND, FailedPreconditionError NO_CHAMPION.
        """
        return require_champion(self.aliases(classifier), classifier)

    def candidate(self, classifier: str) -> Deployment:
        """The deployment that is compared with the champion now.

        Raises NotFoundError CLASSIFIER_NOT_FOUND, FailedPreconditionError NO_CANDIDATE.
        """
        candidate = self.aliases(classifier).candidate
        if candidate is None:
            raise FailedPreconditionError(
                "NO_CANDIDATE", f"{classifier} has no candidate; deploy a version with the alias candidate first"
            )
        return candidate

    def to_promote(self, classifier: str, version: str) -> Deployment:
        """The candidate, provided it is `version`; the champion where that was promoted already (a call that is sent
        again does no harm).

        Raises the errors of `candidate`, FailedPreconditionError CANDIDATE_CHANGED.
        """
        aliases = self.aliases(classifier)
        champion = aliases.champion
        if aliases.candidate is None and champion and (champion.action, champion.version) == ("promote", version):
            return champion
        candidate = self.candidate(classifier)
        if version != candidate.version:
            raise FailedPreconditionError(
                "CANDIDATE_CHANGED",
                f"the candidate of {classifier} is {candidate.version}, not {version or 'unnamed'}; name the version "
                "that you mean to promote",
                fields=[FieldViolation("version", f"is not {candidate.version}")],
            )
        return candidate

    def version(self, name: str) -> ClassifierVersionManifest:
        """A version's manifest. Raises NotFoundError RESOURCE_NOT_FOUND."""
        return self._resources.get(name, ClassifierVersionManifest)[0]

    def deploy(self, deployment: Deployment) -> Deployment:
        """Move an alias to a version that is loaded and probed. The same operation moves it once.

        Raises FailedPreconditionError ALREADY_CHAMPION where the champion would become its own candidate.
        """
        events = self._log(deployment.classifier)
        known = [event for event in events if event.operation and event.operation == deployment.operation]
        if known:
            return known[0]
        champion = self.aliases(deployment.classifier).champion if deployment.alias == "candidate" else None
        if champion is not None and _same(champion, deployment):
            raise FailedPreconditionError(
                "ALREADY_CHAMPION",
                f"{deployment.version} in {deployment.precision} is the champion of {deployment.classifier} and would "
                "be compared with itself; name another version or precision as candidate, or deploy it as champion to "
                "change its size policy",
                fields=[FieldViolation("alias", "the champion cannot be its own candidate")],
            )
        self._append(deployment)
        return deployment

    def promote(self, candidate: Deployment, principal: str, time: datetime) -> Deployment:
        """Make the answer of `to_promote` champion; it is candidate no more."""
        if candidate.alias == "champion":
            return candidate
        return self._append(_moved(candidate, "promote", principal, time, alias="champion"))

    def withdraw(self, candidate: Deployment, principal: str, time: datetime) -> None:
        """Take the candidate alias away."""
        self._append(_moved(candidate, "withdraw", principal, time))

    def before_champion(self, classifier: str) -> Deployment:
        """The deployment that a roll-back returns to.

        Raises the errors of `champion`; FailedPreconditionError NO_EARLIER_VERSION.
        """
        aliases = self.aliases(classifier)
        champion = require_champion(aliases, classifier)
        if aliases.previous is None:
            raise FailedPreconditionError(
                "NO_EARLIER_VERSION", f"{champion.version} is the first version that was deployed; deploy another one"
            )
        return aliases.previous

    def roll_back(self, target: Deployment, principal: str, time: datetime) -> Deployment:
        """Move the champion alias to `target`, the answer of `before_champion`."""
        return self._append(_moved(target, "roll_back", principal, time))

    def keep_deployed(self, desired: DesiredModels, classifier: str) -> None:
        """Want what the aliases point to loaded, and the version before the champion so that a roll-back is instant;
        forget the others, which the reconcilers then unload (`FLAWSMITH_TRITON__UNLOAD_AFTER_S`)."""
        aliases = self.aliases(classifier)
        wanted = {
            deployment.triton_model
            for deployment in (aliases.champion, aliases.previous, aliases.candidate)
            if deployment is not None
        }
        for model in sorted(wanted):
            desired.keep(model)
        for model in sorted(desired.kept(triton_model_name(f"{classifier}/versions/")) - wanted):
            desired.forget(model)

    def _log(self, classifier: str) -> list[Deployment]:
        known = self._events.setdefault(classifier, {})
        return self._resources.events(classifier, _EVENTS, Deployment, known)

    def _append(self, event: Deployment) -> Deployment:
        self._resources.append_event(event.classifier, _EVENTS, event)
        return event


def require_champion(aliases: Aliases, classifier: str) -> Deployment:
    """Raises FailedPreconditionError NO_CHAMPION."""
    if aliases.champion is None:
        raise FailedPreconditionError("NO_CHAMPION", f"{classifier} has no deployed version; deploy one first")
    return aliases.champion


def list_classifiers(resources: Resources) -> list[str]:
    """Names of all classifiers of all products."""
    return [
        f"products/{product}/classifiers/{classifier}"
        for product in resources.list_ids("", "products")
        for classifier in resources.list_ids(f"products/{product}", "classifiers")
    ]


def _same(one: Deployment, other: Deployment) -> bool:
    return one.triton_model == other.triton_model


def _moved(
    deployment: Deployment,
    action: Literal["promote", "roll_back", "withdraw"],
    principal: str,
    time: datetime,
    *,
    alias: Alias | None = None,
) -> Deployment:
    changes = {
        "action": action,
        "alias": alias or deployment.alias,
        "deployed_by": principal,
        "deploy_time": time,
        "operation": "",
    }
    return deployment.model_copy(update=changes)
