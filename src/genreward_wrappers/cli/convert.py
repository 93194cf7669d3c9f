"""``genreward convert``: published weights to safetensors."""

from __future__ import annotations

import argparse
from pathlib import Path

from genreward_wrappers.cli.arguments import Commands, add_command


def add_convert(commands: Commands) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "convert",
        run_convert,
        "convert published weights to safetensors",
        "Reads the published weights of S3D or LIV, which are pickles, allowing "
        "nothing but tensors, checks that they are complete, and writes the weights= "
        "of RoboCLIP or the encoder= of LIV.",
        "s3d s3d_howto100m.pth s3d.safetensors --words s3d_dict.npy",
    )
    command.add_argument("kind", choices=("s3d", "liv"), help="The model.")
    command.add_argument("source", type=Path, metavar="IN", help="The published file.")
    command.add_argument(
        "target",
        type=Path,
        metavar="OUT",
        help="The file (s3d) or folder (liv) to write.",
    )
    command.add_argument(
        "--words",
        type=Path,
        metavar="FILE",
        help="The published list of words, s3d_dict.npy, which s3d needs; none by "
        "default.",
    )
    command.add_argument(
        "--sha256",
        metavar="HASH",
        help="The SHA-256 hash that IN must have; not checked by default.",
    )


def run_convert(args: argparse.Namespace) -> int:
    """Converts the weights."""
    from genreward_wrappers.encoders.convert import convert

    convert(args.kind, args.source, args.target, words=args.words, sha256=args.sha256)
    return 0
