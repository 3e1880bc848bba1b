"""Training: a recipe's section in, a model out. SFT and DPO are TRL's trainers, GRPO is a loop of ours."""
