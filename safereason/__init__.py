"""Train, guard, attack and measure language models that reason about safety."""

__version__ = "0.1.0.dev0"
