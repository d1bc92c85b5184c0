"""Recipes by name: a new one is one file here and one line below."""

from __future__ import annotations

from flawsmith.classification.recipes.base import Recipe
from flawsmith.classification.recipes.diag import DIAG
from flawsmith.classification.recipes.in_and_out import IN_AND_OUT
from flawsmith.common.errors import FieldViolation, InvalidArgumentError

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (IN_AND_OUT, DIAG)}
DEFAULT_RECIPE = IN_AND_OUT.name


def get_recipe(name: str) -> Recipe:
    """Raises InvalidArgumentError UNKNOWN_RECIPE."""
    try:
        return RECIPES[name]
    except KeyError:
        known = ", ".join(sorted(RECIPES))
        raise InvalidArgumentError(
            "UNKNOWN_RECIPE",
            f"there is no recipe {name!r}; choose one of: {known}",
            fields=[FieldViolation("recipe", f"unknown; one of: {known}")],
        ) from None
