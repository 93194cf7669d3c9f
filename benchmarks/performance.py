"""Makes the tables of docs/performance.md anew, each from one run on this machine.

    python -m benchmarks.performance                    # all of them, half an hour
    python -m benchmarks.performance --only step hosts  # these; the others stay

A table stands in the page between two comments with its name. Times are CPU times on
one thread, of several rounds the best; ratios are of one run. Memory does not depend on
what else the machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import torch

from benchmarks import encoding, overhead, peers, peers_memory, step
from genreward_wrappers import load_goal

PAGE = Path(__file__).parents[1] / "docs/performance.md"

TABLES: dict[str, Callable[[], object]] = {
    "import": overhead.imports,
    "hosts": overhead.hosts,
    "step": lambda: step.step_table(40),
    "shares": lambda: overhead.shares(256),
    "streaming": lambda: overhead.streaming(load_goal("metaworld/pick-place")),
    "batching": lambda: overhead.batching(load_goal("metaworld/pick-place")),
    "images": overhead.images,
    "encoding": lambda: encoding.encoding_table(12),
    "peers": lambda: peers.peers_table(list(peers.PAIRS), 8),
    "memory": lambda: peers_memory.memory_table(list(peers.PAIRS)),
}


def put(page: str, name: str, text: str) -> str:
    """A page with a text in the place of the one between a name's comments.

    Raises:
        ValueError: The page has no such place, or several.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    place = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.S)
    if len(place.findall(page)) != 1:
        raise ValueError(f"the page needs one place between {begin} and {end}")
    return place.sub(lambda _: f"{begin}\n{text.strip()}\n{end}", page)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints, and writes each table as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    for name in args.only:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            TABLES[name]()
        text = f"{printed.getvalue().strip()}\n\n({date.today()})"
        print(text, flush=True)
        args.page.write_text(put(args.page.read_text(), name, text))


if __name__ == "__main__":
    main()
