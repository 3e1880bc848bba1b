"""Training on TRL: a recipe's section in, a model out."""
