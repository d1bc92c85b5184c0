"""Recipes by name: a new one is one file here and one line below."""

from __future__ import annotations

from flawsmith.classification.recipes.base import Batch, Recipe
from flawsmith.classification.recipes.diag import DIAG
from flawsmith.classification.recipes.in_and_out import IN_AND_OUT
from flawsmith.classification.recipes.mixed import MIXED

__all__ = ["DEFAULT_RECIPE", "RECIPES", "Batch", "Recipe"]

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (IN_AND_OUT, DIAG, MIXED)}
DEFAULT_RECIPE = IN_AND_OUT.name
