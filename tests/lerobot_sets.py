"""Small LeRobotDatasets, laid out as LeRobot's own writers lay them out."""

from __future__ import annotations

import io
import json

import numpy as np

FPS, SIZE = 10, (32, 48)
LENGTHS = (12, 20, 9)
TASKS = ("push the disc", "push the disc away", "push the disc")
CAMERAS = ("observation.images.top", "observation.images.wrist")
BARS = 6
VIDEO_21 = (
    "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
)
VIDEO_30 = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
DATA_21 = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
DATA_30 = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


def picture(episode, number, camera):
    """Says in colour which episode and camera it is of, and in bars which frame."""
    frame = np.full((*SIZE, 3), 40 + 60 * episode, np.uint8)
    frame[:16, :, camera] = 220
    wide = SIZE[1] // BARS
    for bar in range(BARS):
        level = 235 if number >> bar & 1 else 16
        frame[16:, bar * wide : (bar + 1) * wide] = level
    return frame


def said_by(frame):
    """(episode, number, camera) of a picture, after any codec."""
    means = frame[2:14].mean((0, 1))
    wide = SIZE[1] // BARS
    bars = [frame[19:29, bar * wide + 2 : (bar + 1) * wide - 2] for bar in range(BARS)]
    number = sum(int(bar.mean() > 126) << i for i, bar in enumerate(bars))
    return round((means.min() - 40) / 60), number, int(means.argmax())


def film(episode, camera, length):
    return np.stack([picture(episode, i, camera) for i in range(length)])


def write_film(path, frames):
    """An mp4 with a key frame every other frame, as LeRobot's are."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=FPS, options={"g": "2", "crf": "10"})
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def write_table(path, columns):
    import pyarrow
    import pyarrow.parquet as parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)


def write_dataset(
    folder,
    version="v3.0",
    *,
    kind="video",
    cameras=CAMERAS,
    tasks=None,
    won=None,
    files=(0, 0, 0),
):
    """Three episodes.

    Args:
        folder: Where to.
        version: Of the format.
        kind: "video" or "image".
        cameras: Names of features.
        tasks: A list of tasks for each episode.
        won: Whether each episode succeeded; None notes nothing.
        files: The number of the file that each episode lies in, for 3.0.
    """
    tasks = [[task] for task in TASKS] if tasks is None else tasks
    old = version == "v2.1"
    features = {
        name: {"dtype": kind, "shape": [*SIZE, 3], "names": ["height", "width", "c"]}
        for name in cameras
    }
    features["action"] = {"dtype": "float32", "shape": [2], "names": None}
    if won is not None:
        features["next.success"] = {"dtype": "bool", "shape": [1], "names": None}
    info = {
        "codebase_version": version,
        "total_episodes": len(LENGTHS),
        "chunks_size": 2 if old else 1000,
        "fps": FPS,
        "data_path": DATA_21 if old else DATA_30,
        "video_path": (VIDEO_21 if old else VIDEO_30) if kind == "video" else None,
        "features": features,
    }
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    groups = [[e] for e in range(3)]
    if not old:
        groups = [[e for e in range(3) if files[e] == n] for n in sorted(set(files))]
    needs_data = kind == "image" or won is not None
    for group in groups:
        place = {
            "episode_chunk": group[0] // 2,
            "episode_index": group[0],
            "chunk_index": 0,
            "file_index": files[group[0]],
        }
        for number, camera in enumerate(cameras):
            if kind == "video":
                frames = [film(e, number, LENGTHS[e]) for e in group]
                path = info["video_path"].format(video_key=camera, **place)
                write_film(folder / path, np.concatenate(frames))
        if needs_data:
            rows = data_of(group, cameras if kind == "image" else (), won)
            write_table(folder / info["data_path"].format(**place), rows)
    if old:
        lines = [
            json.dumps({"episode_index": e, "tasks": tasks[e], "length": LENGTHS[e]})
            for e in range(3)
        ]
        (folder / "meta" / "episodes.jsonl").write_text("\n".join(lines) + "\n")
    else:
        write_episodes(folder, cameras if kind == "video" else (), tasks, files)
    return folder


def data_of(group, cameras, won):
    """The table of the data of some episodes, its rows out of order."""
    from PIL import Image

    order = [(e, i) for e in group for i in reversed(range(LENGTHS[e]))]
    columns = {
        "episode_index": [e for e, _ in order],
        "frame_index": [i for _, i in order],
    }
    for number, camera in enumerate(cameras):
        column = []
        for e, i in order:
            file = io.BytesIO()
            Image.fromarray(picture(e, i, number)).save(file, "PNG")
            column.append({"bytes": file.getvalue(), "path": f"frame-{i:06d}.png"})
        columns[camera] = column
    if won is not None:
        columns["next.success"] = [won[e] and i == LENGTHS[e] - 1 for e, i in order]
    return columns


def write_episodes(folder, cameras, tasks, files, changes=None):
    """The table of the episodes of 3.0."""
    starts, ends = [], dict.fromkeys(files, 0.0)
    for length, file in zip(LENGTHS, files, strict=True):
        starts.append(ends[file])
        ends[file] += length / FPS
    columns = {
        "episode_index": [0, 1, 2],
        "tasks": tasks,
        "length": list(LENGTHS),
        "data/chunk_index": [0, 0, 0],
        "data/file_index": list(files),
    }
    for camera in cameras:
        stops = [a + n / FPS for a, n in zip(starts, LENGTHS, strict=True)]
        columns |= {
            f"videos/{camera}/chunk_index": [0, 0, 0],
            f"videos/{camera}/file_index": list(files),
            f"videos/{camera}/from_timestamp": starts,
            f"videos/{camera}/to_timestamp": stops,
        }
    columns = {**columns, **(changes or {})}
    columns = {name: column for name, column in columns.items() if column is not None}
    path = folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    write_table(path, columns)
