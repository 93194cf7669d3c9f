"""``python -m genreward_wrappers`` is the command ``genreward``."""

from genreward_wrappers.cli.main import main

raise SystemExit(main())
