"""At which size a base model draws best, read from its files without loading it."""

from __future__ import annotations

import json

from flawsmith.common.manifests import ObjectRef
from flawsmith.common.resources import Resources
from flawsmith.generation.catalog import BaseModelManifest

_WITHOUT_UNET = (1024, 16)
"""Transformers, of FLUX.2's kind, are trained at many sizes; the multiple is that of their patches."""


def native_size(resources: Resources, base_model: str, sha256: str) -> tuple[int, int]:
    """Side of the images that an installed base model was trained on, pixels, and what sides must be multiples of.

    sha256: of its manifest. Raises NotFoundError (RESOURCE_NOT_FOUND) and what `ObjectStore.get` raises.
    """
    manifest, _ = resources.get(f"baseModels/{base_model}/revisions/{sha256[:16]}", BaseModelManifest)
    files = {file.path: file.object for file in manifest.files}
    if "unet/config.json" not in files:
        return _WITHOUT_UNET

    def read(ref: ObjectRef) -> dict[str, object]:
        values: dict[str, object] = json.loads(resources.store.get(ref))
        return values

    levels = read(files["vae/config.json"])["block_out_channels"]
    multiple = 2 ** (len(levels) - 1) if isinstance(levels, list) else 8
    return int(str(read(files["unet/config.json"])["sample_size"])) * multiple, multiple
