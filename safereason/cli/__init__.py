"""What a person types: one module a subcommand, each of which parses, calls a stage and prints."""
