"""An attack, a judge, a source, an evaluation and a guard that safereason finds by the entry points in pyproject.toml.

Each module holds one entry. No code registers them: safereason imports a module when its entry is used or listed.
"""
