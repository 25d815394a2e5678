"""``python -m qdbev_cli`` is ``qdbev``."""

from __future__ import annotations

from qdbev_cli.app import main

if __name__ == "__main__":
    main()
