"""`safereason guard`: a model that reasons over a policy and says safe or unsafe."""

from safereason.cli import options as opt
from safereason.cli import pending

app = opt.group("Train, ask and serve a guard that reasons before its verdict.")

pending.add(
    app,
    "guard train",
    "Train a guard with RL on labelled prompts and responses",
    "safereason guard train --recipe rsafe",
)
pending.add(
    app,
    "guard classify",
    "Read JSONL from a file or stdin and write a verdict for each row",
    "safereason guard classify --model runs/guard/RUN rows.jsonl",
)
pending.add(
    app,
    "guard serve",
    "Serve a guard behind the Moderation API",
    "safereason guard serve --model runs/guard/RUN --port 8000",
)
pending.add(app, "guard policy", "List and print the policies a guard can judge by", "safereason guard policy default")
