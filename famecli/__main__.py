"""`python -m famecli` is `fame`."""

from famecli.cli.app import main

if __name__ == "__main__":
    main()
