"""Pure functions on text: chat templates, the think/answer split, verdicts. No model."""
