"""Preparation of training data: what several stages ask about it, or do to it, before there is a run.

- `training_sources`: the sources that a recipe trains on, those that cannot be had, and the command that makes each.
- `contamination`: the prompts that a recipe tests on, which training may not see.
- `guard_data`: the prompt of a guard's rows, and the rows that are too long with it.
- `mixture`: the rows of the mix, drawn from all of these.
- `teacher`: the prompts that a teacher has to answer, and what that costs.

No module here is a stage, since none makes a run, and none imports one: `data`, `traces` and the trainings import them.
Imports among them go one way: `teacher` imports `mixture`, `mixture` imports `contamination` and `guard_data`, and all
of them import `training_sources`.
"""
