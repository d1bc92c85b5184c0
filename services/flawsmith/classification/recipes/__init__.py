"""Recipes by name: a new one is one file here and one line below."""

from __future__ import annotations

from flawsmith.classification.recipes.base import Recipe
from flawsmith.classification.recipes.diag import DIAG
from flawsmith.classification.recipes.in_and_out import IN_AND_OUT

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (IN_AND_OUT, DIAG)}
DEFAULT_RECIPE = IN_AND_OUT.name
