"""A contact sheet: each video as a row of its frames, the key frame framed."""

from __future__ import annotations

import base64
import io
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genreward_wrappers.core import UInt8
from genreward_wrappers.data.files import write_atomic
from genreward_wrappers.data.frames import evenly
from genreward_wrappers.data.goals import GoalBundle, GoalError
from genreward_wrappers.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

#: The frame around a key frame, and its colour.
BORDER, MARK = 3, (220, 40, 40)

#: The height of the line of text under a frame.
LINE = 14

#: Smaller frames are enlarged, by a whole number of times, to at least this height.
READABLE = 96


def shown_frames(length: int, key: int, columns: int) -> list[int]:
    """Which frames of a video are shown: evenly spread, the key frame among them.

    >>> shown_frames(33, 21, 5)
    [0, 8, 16, 21, 32]
    """
    index: list[int] = evenly(min(columns, length), length - 1).tolist()
    if key not in index:
        # The first and the last frame stay, if there is room for another.
        inner = range(1, len(index) - 1) if len(index) > 2 else range(len(index))
        nearest = min(inner, key=lambda i: abs(index[i] - key))
        index[nearest] = key
    return index


def contact_sheet(goal: GoalBundle, columns: int = 9) -> UInt8:
    """(H, W, 3) a picture of all videos, one per row.

    Args:
        goal: The bundle.
        columns: The number of frames of each video.

    Raises:
        ImportError: Pillow is not installed.
    """
    if columns < 2:
        raise GoalError(f"columns={columns}: expected at least 2")
    require("PIL", "demo", "contact sheets need pillow")
    from PIL import Image, ImageDraw

    height, width = goal.frame_size
    zoom = -(-READABLE // height) if height < READABLE else 1
    tile_height = zoom * height + 2 * BORDER + LINE
    tile_width = zoom * width + 2 * BORDER
    shown = min(columns, goal.videos.shape[1])
    size = (shown * tile_width, len(goal.videos) * tile_height)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for row, (video, key) in enumerate(zip(goal.videos, goal.key_frames, strict=True)):
        for column, step in enumerate(shown_frames(len(video), key, columns)):
            left, top = column * tile_width, row * tile_height
            if step == key:
                right, bottom = left + tile_width - 1, top + tile_height - LINE - 1
                pen.rectangle((left, top, right, bottom), fill=MARK)
            large = video[step].repeat(zoom, 0).repeat(zoom, 1)
            sheet.paste(Image.fromarray(large), (left + BORDER, top + BORDER))
            # They can be told apart without colour, too.
            text = f"{step} key" if step == key else f"{step}"
            under = (left + BORDER, top + tile_height - LINE)
            pen.text(under, text, fill=MARK if step == key else "black")
    return np.asarray(sheet)


def image_of(goal: GoalBundle, columns: int = 9) -> Image:
    """The contact sheet as an image of Pillow's."""
    sheet = contact_sheet(goal, columns)
    from PIL import Image

    return Image.fromarray(sheet)


def html_of(goal: GoalBundle) -> str:
    """The contact sheet with what the bundle says; without Pillow, only the latter."""
    prompt = f"{goal.prompt!r}" if goal.prompt else "no prompt"
    origin = f"made by {goal.generator}" if goal.generator else "of unknown origin"
    about = f"{goal!r}, {prompt}, {origin}"
    try:
        image = image_of(goal)
    except ImportError:
        return f"<p>{escape(about)}</p>"
    packed = io.BytesIO()
    image.save(packed, format="WEBP", quality=75)
    data = base64.b64encode(packed.getvalue()).decode()
    return (
        f'<figure><img src="data:image/webp;base64,{data}" style="max-width:100%" '
        f'alt="{escape(about)}"><figcaption>{escape(about)}</figcaption></figure>'
    )


def png_of(picture: UInt8) -> bytes:
    """The bytes of a PNG of a picture."""
    from PIL import Image

    packed = io.BytesIO()
    Image.fromarray(picture).save(packed, format="PNG")
    return packed.getvalue()


def save_picture(path: str | PathLike[str], picture: UInt8) -> None:
    """Writes a picture atomically, in the format of its suffix.

    Raises:
        ValueError: Pillow does not write that format.
    """
    from PIL import Image

    path = Path(path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise ValueError(
            f"{path}: cannot write pictures that end with {path.suffix!r}; .png, .jpg "
            "and .webp are among those that do"
        )
    packed = io.BytesIO()
    Image.fromarray(picture).save(packed, format=kind)
    write_atomic(path, packed.getvalue())
