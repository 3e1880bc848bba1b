"""The report: one self-contained HTML page made from finished runs and nothing else."""
