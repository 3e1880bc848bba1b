"""Preparation of training data: sources, test sets to keep out, a guard's rows, the mix, and requests to a teacher.

Imports go one way: `teacher` and the stage `data` import `mixture`, `mixture` imports `contamination` and `guard_data`,
and all of them import `training_sources`. Nothing here imports a stage.
"""
