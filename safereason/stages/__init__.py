"""Stages: the only wiring. Each reads its section of the recipe, builds the pieces and runs them in a run directory."""
