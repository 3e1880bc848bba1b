"""Recipes: the settings of a run, checked before anything starts."""
