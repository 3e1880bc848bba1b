"""The command line.

Each command imports its stage inside its function. `--help`, usage errors and the `recipe` commands thereby answer at
once, and work where torch and the other heavy libraries are not installed.
"""
