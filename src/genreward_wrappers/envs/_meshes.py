"""Meshes with as many triangles as a small picture can show.

A Sawyer arm has 67,000 triangles, and at 64x64 software rendering spends most of its
time on them, although most are smaller than a pixel. Here they are merged until the
surface would move by more than a fraction of a pixel, in a copy of the model from which
a renderer uploads its meshes and nothing else is read: the simulation never sees it.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PIXEL_SHARE = 0.25
"""How far a surface may move, as a share of a pixel's width."""

_WORTH_IT = 1000
"""Meshes with fewer triangles are left alone: there is little to gain."""

_CREASE = np.cos(np.deg2rad(40))
"""Surfaces that meet at a larger angle than this have an edge between them."""

_FEWEST_SLICES = 12

Mesh = tuple[NDArray[Any], NDArray[Any]]
"""(V, 3) vertices and (F, 3) faces, which are indices of vertices."""


def tolerance(model: Any, camera: int, height: int) -> float | None:
    """How far a surface may move unseen, or None where there is no telling.

    It follows from the model alone and not from its state, so that a state has one
    picture. A camera that moves may come close to anything.

    Args:
        model: A `mujoco.MjModel`.
        camera: One of its cameras by number.
        height: Of the picture.

    Returns:
        A length in the model's unit, for a camera that does not move.
    """
    if camera < 0 or model.cam_bodyid[camera] != 0 or model.cam_mode[camera] != 0:
        return None
    distance = float(np.linalg.norm(model.cam_pos[camera] - model.stat.center))
    angle = np.deg2rad(float(model.cam_fovy[camera]))
    return _PIXEL_SHARE * 2 * float(np.tan(angle / 2)) * distance / height


def simplified(model: Any, moved: float) -> Any:
    """A copy of a model, to upload from, whose surfaces have moved a little.

    Vertices, faces and normals are written over the copy's own, which need more room.

    Args:
        model: A `mujoco.MjModel`, left as it is.
        moved: How far a surface may move, as `tolerance` returns it.

    Returns:
        The copy; or the model itself if none of its meshes could be simplified.
    """
    large = [i for i in range(model.nmesh) if model.mesh_facenum[i] >= _WORTH_IT]
    if not large or _decimator() is None:
        return model
    smaller = copy.copy(model)
    if not sum(_replace(smaller, mesh, moved) for mesh in large):
        return model
    quality = smaller.vis.quality
    # Spheres and cylinders are made of triangles as well.
    quality.numslices = min(quality.numslices, _FEWEST_SLICES)
    quality.numstacks = min(quality.numstacks, 2 * _FEWEST_SLICES // 3)
    if model.light_directional.all():
        # Boxes and planes are split only so that near lights shade them evenly.
        quality.numquads = 1
    return smaller


def _replace(model: Any, mesh: int, moved: float) -> bool:
    """Simplifies a mesh in place; returns whether there was anything to gain."""
    name = model.mesh(mesh).name
    if model.mesh_texcoordnum[mesh]:
        _say_whole(name, "it has texture coordinates")
        return False
    vert, face = model.mesh_vertadr[mesh], model.mesh_faceadr[mesh]
    normal = model.mesh_normaladr[mesh]
    vertices = model.mesh_vert[vert : vert + model.mesh_vertnum[mesh]]
    faces = model.mesh_face[face : face + model.mesh_facenum[mesh]]
    if not np.isfinite(vertices).all():
        _say_whole(name, "not all of its vertices are finite")
        return False
    vertices, faces, normals, corners = _simplify(
        vertices.tobytes(), faces.tobytes(), moved
    )
    if len(faces) == 0:
        _say_whole(name, "nothing of it would be left")
        return False
    if (
        len(faces) >= model.mesh_facenum[mesh]
        or len(vertices) > model.mesh_vertnum[mesh]
        or len(normals) > model.mesh_normalnum[mesh]
    ):
        return False
    model.mesh_vert[vert : vert + len(vertices)] = vertices
    model.mesh_face[face : face + len(faces)] = faces
    model.mesh_normal[normal : normal + len(normals)] = normals
    model.mesh_facenormal[face : face + len(faces)] = corners
    model.mesh_vertnum[mesh] = len(vertices)
    model.mesh_facenum[mesh] = len(faces)
    model.mesh_normalnum[mesh] = len(normals)
    # The convex hull is made of the vertices that were there.
    model.mesh_graphadr[mesh] = -1
    return True


@functools.lru_cache(maxsize=256)
def _simplify(
    vert: bytes, face: bytes, moved: float
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Vertices, faces, normals and the normals of the faces' corners, by index.

    Many environments of a process have the same arm.
    """
    vertices = np.frombuffer(vert, np.float32).reshape(-1, 3).astype(np.float64)
    faces = np.frombuffer(face, np.int32).reshape(-1, 3)
    vertices, faces = _merge(vertices, faces, moved)
    decimate = _decimator()
    if decimate is not None and len(faces):
        vertices, faces = decimate(vertices, faces, moved)
    if not len(faces):
        return vertices, faces, vertices, faces
    normals = _corner_normals(vertices, faces)
    # Equal ones of the same vertex are kept once: there is not room for all.
    keyed = np.column_stack([faces.ravel(), np.round(1000 * normals)])
    _, first, corners = np.unique(keyed, axis=0, return_index=True, return_inverse=True)
    return vertices, faces, normals[first], corners.reshape(-1, 3)


def _merge(vertices: NDArray[Any], faces: NDArray[Any], cell: float) -> Mesh:
    """Vertices in the same cell of a grid become one, at their mean.

    That closes the cracks between parts, which decimation would widen, and leaves
    nothing of screws. A face is dropped with its area, or if it is there twice.
    """
    cells = np.round((vertices - vertices.min(0)) / cell).astype(np.int64)
    _, merged = np.unique(cells, axis=0, return_inverse=True)
    merged = merged.ravel()
    count = np.bincount(merged)
    means = [np.bincount(merged, weights=vertices[:, k]) / count for k in range(3)]
    faces = merged[faces]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    # Equal faces begin with the same vertex.
    turn = (np.argmin(faces, axis=1)[:, None] + np.arange(3)) % 3
    faces = np.unique(np.take_along_axis(faces, turn, axis=1), axis=0)
    return np.column_stack(means), faces.astype(np.int32)


@functools.cache
def _decimator() -> Callable[[NDArray[Any], NDArray[Any], float], Mesh] | None:
    """Decimation by quadric errors, if its package is installed; else says so."""
    try:
        from fast_simplification import simplify
    except ImportError:
        warnings.warn(
            "meshes are drawn whole, which takes several times as long at 64x64: to "
            'simplify them, pip install "genreward-wrappers[metaworld]" '
            "(fast-simplification is missing)",
            RuntimeWarning,
            stacklevel=2,
        )
        return None

    def decimate(vertices: NDArray[Any], faces: NDArray[Any], moved: float) -> Mesh:
        # It ends at a number of triangles, or after 100 rounds at an error, which is
        # the square of a distance: 1e-9 * 102 ** agg. That number is out of reach here,
        # so the scale decides which distance this error is.
        scale = np.sqrt(1e-9 * 102**2) / moved
        vertices, faces = simplify(vertices * scale, faces, target_count=1, agg=2)
        return vertices / scale, faces

    return decimate


def _corner_normals(vertices: NDArray[Any], faces: NDArray[Any]) -> NDArray[Any]:
    """(3 F, 3) the normal of each face's corners: smooth, except across a crease.

    It is the mean, by area, of those faces at the corner's vertex whose normals are
    close to the face's own.
    """
    first, second, third = (vertices[faces[:, k]] for k in range(3))
    areas = np.cross(second - first, third - first)
    units = areas / np.maximum(np.linalg.norm(areas, axis=1, keepdims=True), 1e-30)
    # All pairs of corners at the same vertex.
    at = faces.ravel()
    count = np.bincount(at, minlength=len(vertices))
    sorted_corners = np.argsort(at, kind="stable")
    begin = np.cumsum(count) - count
    one = np.repeat(np.arange(len(at)), count[at])
    place = np.arange(len(one)) - np.repeat(np.cumsum(count[at]) - count[at], count[at])
    other = sorted_corners[begin[at[one]] + place]
    near = np.einsum("ij,ij->i", units[one // 3], units[other // 3]) > _CREASE
    one, other = one[near], other[near]
    total = np.column_stack(
        [
            np.bincount(one, weights=areas[other // 3, k], minlength=len(at))
            for k in range(3)
        ]
    )
    normals: NDArray[Any] = total / np.maximum(
        np.linalg.norm(total, axis=1, keepdims=True), 1e-30
    )
    return normals


@functools.cache
def _say_whole(name: str, why: str) -> None:
    warnings.warn(
        f"the mesh {name!r} is drawn whole: {why}", RuntimeWarning, stacklevel=2
    )
