"""`python -m safereason` is the `safereason` command."""

from safereason.cli.app import main

if __name__ == "__main__":
    main()
