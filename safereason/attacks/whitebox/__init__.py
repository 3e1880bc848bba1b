"""Tools of white-box attacks: slots of a suffix in prompts, losses of a target, and candidate tokens."""
