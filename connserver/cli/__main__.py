"""`python -m connserver.cli`: the same as `cs-cluster`."""

from connserver.cli import main

if __name__ == "__main__":
    main()
