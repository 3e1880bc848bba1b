"""Guards: models that read a policy and a conversation and answer safe or unsafe (RSafe, arXiv 2506.07736)."""
