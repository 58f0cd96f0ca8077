"""`python -m convjax`."""

from convjax.commands import main

if __name__ == "__main__":
    main()
