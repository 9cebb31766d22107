"""What each SDK needs: `select(sdk)` gives the recipe; a recipe is a pure function of the request and the tree."""

from builder.recipes.recipe import Plan, Recipe, TreeView, select

__all__ = ["Plan", "Recipe", "TreeView", "select"]
