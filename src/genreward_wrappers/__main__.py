"""``python -m genreward_wrappers`` is the command ``genreward``."""

from genreward_wrappers.cli import main

raise SystemExit(main())
