"""Run directories: what one stage wrote, and how it is resumed."""
