"""Which Triton model draws with a base model, and its files in the model repository.

Each installed base model gets a copy of the model `diffusion` of its own, named after the hash of its manifest: new
weights are a new model, which a Triton that runs loads beside the old one. Such a copy is loaded when it is first drawn
with, and unloaded an hour after the last time: GPUs do not hold all of them at once. The copy of the base model that
comes with the platform is loaded from the start.
"""

from __future__ import annotations

import re

from flawsmith.common.desired_models import DesiredModels
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import Resources
from flawsmith.generation.catalog import installed_base_model, known_models

TEMPLATE = "diffusion"
LOADED_S = 3600.0


def triton_model(base_model: str, manifest_sha256: str) -> str:
    """The Triton model that draws with a base model."""
    return f"{TEMPLATE}__{base_model}__{manifest_sha256[:12]}"


def publish_triton_model(store: ObjectStore, repository: str, base_model: str, manifest_sha256: str) -> None:
    """Put the Triton model of an installed base model into the model repository.

    repository: its prefix, where the model `diffusion` is. Raises what the store raises.
    """
    name = triton_model(base_model, manifest_sha256)
    config = store.get_key(f"{repository}/{TEMPLATE}/config.pbtxt").decode()
    store.put(f"{repository}/{name}/1/model.py", store.get_key(f"{repository}/{TEMPLATE}/1/model.py"))
    # config.pbtxt last: a folder without it is no model.
    store.put(f"{repository}/{name}/config.pbtxt", config_of(config, name, base_model).encode())


def publish_triton_models(resources: Resources, repository: str) -> None:
    """Put the Triton models of all installed base models into the model repository, with the newest code."""
    for base_model in known_models(resources):
        ref = installed_base_model(resources, base_model)
        if ref is not None:
            publish_triton_model(resources.store, repository, base_model, ref.sha256)


def keep_loaded(store: ObjectStore, repository: str, model: str) -> None:
    """Want a Triton model, from `triton_model`, loaded for the next while; call it before each drawing."""
    DesiredModels(store, repository).keep_on(model, LOADED_S)


def keep_only(desired: DesiredModels, model: str) -> None:
    """Want one Triton model, from `triton_model`, loaded for good, and none that was before: of older weights."""
    desired.keep(model)
    for older in desired.kept(TEMPLATE) - {model}:
        desired.forget(older)


def config_of(template: str, name: str, base_model: str) -> str:
    """The configuration of the model `diffusion` as that of another name and base model."""
    config, names = re.subn(r'(?m)^name: "[^"]*"', f'name: "{name}"', template)
    config, models = re.subn(r'(key: "base_model" value: \{ string_value: )"[^"]*"', rf'\g<1>"{base_model}"', config)
    if (names, models) != (1, 1):
        raise ValueError("the configuration of the model diffusion has no name or no parameter base_model")
    return config
