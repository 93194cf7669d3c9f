"""Which pixels of a picture show which bodies of a MuJoCo model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.envs._gl import OffscreenRenderer


def shows_only(
    renderer: OffscreenRenderer, model: Any, data: Any, camera: int, bodies: Any
) -> NDArray[np.bool_]:
    """Which pixels show one of some bodies, or nothing at all.

    Costs about as much as a picture: it is drawn, once more, in colours that number
    what is seen.

    Args:
        renderer: Of the model.
        model: A `mujoco.MjModel`.
        data: A `mujoco.MjData` of it.
        camera: A camera of the model by number.
        bodies: The bodies' numbers.

    Returns:
        (height, width); row 0 is the *bottom* of the picture, as the renderer's.
    """
    import mujoco

    scene = renderer._scene
    flags = (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR)
    for flag in flags:
        scene.flags[flag] = True
    try:
        colours = renderer.render(data, camera).astype(np.int32)
    finally:
        for flag in flags:
            scene.flags[flag] = False
    # Number 0 is where nothing is drawn.
    numbers = colours @ np.array([1, 1 << 8, 1 << 16], np.int32)
    found = _numbers_of(scene, model, set(map(int, bodies)), mujoco.mjtObj.mjOBJ_GEOM)
    return np.isin(numbers, [0, *found])


def _numbers_of(
    scene: Any, model: Any, bodies: Collection[int], geom: int
) -> list[int]:
    drawn = (scene.geoms[index] for index in range(scene.ngeom))
    return [
        shape.segid + 1
        for shape in drawn
        # Marks of places (sites) are drawn as well, and belong to no body's surface.
        if shape.objtype == geom and int(model.geom_bodyid[shape.objid]) in bodies
    ]
