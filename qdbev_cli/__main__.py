"""``python -m qdbev_cli`` is ``qdbev``."""

from qdbev_cli.app import main

if __name__ == "__main__":
    main()
