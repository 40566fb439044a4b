"""`python -m nla_sdk.cli`: the same as `nla`."""

from .app import main

if __name__ == "__main__":
    main()
