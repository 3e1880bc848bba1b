"""Tools of white-box attacks: slots of a suffix in prompts, losses of a target text, and candidate tokens."""
