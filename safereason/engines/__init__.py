"""Engines: what turns conversations into completions."""
