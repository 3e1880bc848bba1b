"""Tools of white-box attacks: positions of a suffix in prompts, losses of a target text, and candidate tokens."""
