"""`python -m flashcast` is `flashcast`."""

from flashcast.cli.main import run

if __name__ == "__main__":
    run()
