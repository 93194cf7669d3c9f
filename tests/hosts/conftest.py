"""Workers of `SubprocVecEnv` are forked from a server, which imports the rest once."""

from __future__ import annotations

import multiprocessing

# Before anything starts the server, which lasts as long as the tests.
multiprocessing.set_forkserver_preload(["tests.hosts.test_hosts"])
