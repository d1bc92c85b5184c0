"""Find the manifests that a request names."""

from __future__ import annotations

from flawsmith.common.errors import FieldViolation, InvalidArgumentError, NotFoundError
from flawsmith.common.manifests import ImportManifest, ObjectRef
from flawsmith.common.resources import Resources, check_name


def find_import(resources: Resources, parent: str, name: str) -> tuple[ImportManifest, ObjectRef]:
    """The import of that name, or the product's newest when it is empty.

    Raises InvalidArgumentError (INVALID_NAME, IMPORT_OF_OTHER_PRODUCT), NotFoundError (RESOURCE_NOT_FOUND, NO_IMPORT).
    """
    if name:
        check_name(name, "products/{product}/imports/{import}", "import")
        if not name.startswith(f"{parent}/"):
            raise InvalidArgumentError(
                "IMPORT_OF_OTHER_PRODUCT",
                f"{name} does not belong to {parent}; name one of its own imports",
                fields=[FieldViolation("import", name)],
            )
        return resources.get(name, ImportManifest)
    names = [f"{parent}/imports/{item}" for item in resources.list_ids(parent, "imports")]
    found = [resources.get(candidate, ImportManifest) for candidate in names if resources.exists(candidate)]
    if not found:
        raise NotFoundError("NO_IMPORT", f"{parent} has no imported data; call ImportImages first")
    return max(found, key=lambda entry: (entry[0].create_time, entry[0].name))
