"""Runs the command line: python -m caffeinit."""

from caffeinit.cli import main

if __name__ == "__main__":
    main()
