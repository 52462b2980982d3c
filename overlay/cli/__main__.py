"""`python -m overlay.cli` is `cocoon`."""

from overlay.cli import main

if __name__ == "__main__":
    main()
