"""Loaded by an interpreter that has this folder on PYTHONPATH: it meets the fault that the environment names."""

from campaign import faults

faults.install_from_environment()
