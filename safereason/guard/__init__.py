"""The guard's side of RSafe: the policy it reasons over and the prompt it is given."""
