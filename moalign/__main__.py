"""``python -m moalign`` is the command line."""

from __future__ import annotations

from moalign.cli import main

if __name__ == "__main__":
    main()
