"""``genreward cache``: what is cached, how large it is, and how to get rid of it."""

from __future__ import annotations

import argparse
import time

from genreward_wrappers.cli.arguments import Commands, add_command


def add_cache(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "cache",
        run_cache,
        "list or clean what is cached on this machine",
        "Lists the caches with their sizes. Everything in them can be made again. They "
        "are in the folder GENREWARD_CACHE, by default genreward below XDG_CACHE_HOME "
        "or ~/.cache. GENREWARD_CACHE_LIMIT, for example 20GB, bounds their size.",
        "--limit 20GB",
    )
    command.add_argument(
        "kinds",
        nargs="*",
        metavar="KIND",
        help="The caches to look at: rollouts, features, latents or generated; all of "
        "them by default.",
    )
    command.add_argument(
        "--clean", action="store_true", help="Remove everything in them."
    )
    command.add_argument(
        "--limit",
        metavar="SIZE",
        help="Remove the least recently used entries until the others fit into SIZE, "
        "for example 20GB; those used in the last hour stay. By default nothing is "
        "removed.",
    )


def run_cache(args: argparse.Namespace) -> int:
    """Removes what is asked for, and lists what is left."""
    from genreward_wrappers.data.cache import (
        KINDS,
        cache_root,
        entries,
        parse_size,
        remove,
        trim,
    )

    unknown = set(args.kinds) - set(KINDS)
    if unknown:
        raise ValueError(
            f"no such kinds {sorted(unknown)}: expected {', '.join(KINDS)}"
        )
    if args.clean and args.limit:
        raise ValueError("--clean removes everything: give it or --limit, not both")
    kinds = args.kinds or list(KINDS)
    if args.clean or args.limit:
        gone = remove(kinds) if args.clean else trim(parse_size(args.limit), kinds)
        print(f"removed {len(gone)} entries, {_size(sum(e.size for e in gone))}")
    print(cache_root())
    total = 0
    for kind in kinds:
        there = list(entries([kind]))
        size = sum(entry.size for entry in there)
        total += size
        days = (time.time() - min((e.used for e in there), default=time.time())) / 86400
        oldest = f", the oldest last used {days:.0f} days ago" if there else ""
        print(f"  {kind:10} {_size(size):>9} in {len(there)} entries{oldest}")
        print(f"  {'':10} {KINDS[kind]}")
    print(f"  {'together':10} {_size(total):>9}")
    return 0


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
