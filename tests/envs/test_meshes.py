"""Simplified meshes: what is seen stays, what is simulated stays to the last bit."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest

from genreward_wrappers.envs import _gl, _meshes

mujoco = pytest.importorskip("mujoco")


@pytest.fixture(autouse=True)
def nothing_said_yet():
    """Each test hears what is said once in a process."""
    caches = (_meshes._decimator, _meshes._say_whole, _meshes._simplify)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def grid(across: int = 30, texcoord: bool = False, bump: float = 0.02) -> str:
    """A mesh asset: a gently curved square metre of 2 * across**2 triangles."""
    line = np.linspace(-0.5, 0.5, across + 1)
    x, y = (axis.ravel() for axis in np.meshgrid(line, line, indexing="ij"))
    z = bump * np.cos(3 * x) * np.cos(3 * y)
    at = np.arange((across + 1) ** 2).reshape(across + 1, across + 1)
    a, b, c, d = at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]
    faces = np.stack([a, b, c, a, c, d], -1).reshape(-1, 3)
    # A corner below makes it a body of some volume.
    vertices = np.vstack([np.column_stack([x, y, z]), [0, 0, -0.5]])
    faces = np.vstack([faces, [at[0, 0], at[0, -1], len(vertices) - 1]])
    numbers = " ".join(map(str, np.round(vertices, 6).ravel()))
    texture = ""
    if texcoord:
        texture = f'texcoord="{" ".join(["0.5"] * 2 * len(vertices))}"'
    indices = " ".join(map(str, faces.ravel()))
    return f'<mesh name="grid" vertex="{numbers}" face="{indices}" {texture}/>'


def model(asset: str | None = None):
    return mujoco.MjModel.from_xml_string(
        f"""<mujoco><asset>{asset or grid()}</asset><worldbody>
        <light pos="0 0 3" dir="0 0 -1"/>
        <camera name="fixed" pos="0 -1 1" xyaxes="1 0 0 0 1 1"/>
        <body name="b"><geom type="mesh" mesh="grid"/><camera name="moves"/></body>
        </worldbody></mujoco>"""
    )


def content(model) -> bytes:
    """Everything in a model."""
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()


# The geometry


def sphere(rings: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on the unit sphere, and triangles that close it."""
    up = np.pi * np.arange(1, rings) / rings
    around = np.pi * np.arange(2 * rings) / rings
    u, a = (angle.ravel() for angle in np.meshgrid(up, around, indexing="ij"))
    ring = np.column_stack([np.sin(u) * np.cos(a), np.sin(u) * np.sin(a), np.cos(u)])
    count, faces = 2 * rings, []
    top, bottom = len(ring), len(ring) + 1
    for k in range(count):
        after = (k + 1) % count
        faces.append([top, k, after])
        for row in range(0, (rings - 2) * count, count):
            one, two = row + k, row + after
            faces += [[one, one + count, two], [two, one + count, two + count]]
        faces.append([bottom, (rings - 2) * count + after, (rings - 2) * count + k])
    vertices = np.vstack([ring, [[0, 0, 1], [0, 0, -1]]])
    return vertices.astype(np.float32), np.array(faces, np.int32)


@pytest.mark.parametrize("moved", [0.005, 0.02, 0.05])
def test_a_surface_moves_by_no_more_than_it_may(moved):
    pytest.importorskip("fast_simplification")
    vertices, faces = sphere(60)
    v, f, normals, corners = _meshes._simplify(
        vertices.tobytes(), faces.tobytes(), moved
    )
    assert len(f) < 0.7 * len(faces)
    # The middles of triangles lie deepest inside.
    radius = np.linalg.norm(np.vstack([v, v[f].mean(1)]), axis=1)
    assert np.abs(radius - 1).max() < 1.5 * moved
    # Nothing is missing: the volume is nearly the whole.
    a, b, c = (v[f[:, k]] for k in range(3))
    volume = np.einsum("ij,ij->", a, np.cross(b, c)) / 6
    assert volume == pytest.approx(4 / 3 * np.pi, rel=4 * moved)
    # Normals point away from the middle, as the sphere's own do.
    at = v[f].reshape(-1, 3) / np.linalg.norm(v[f].reshape(-1, 3), axis=1)[:, None]
    assert np.einsum("ij,ij->i", normals[corners].reshape(-1, 3), at).min() > 0.9


def test_normals_are_smooth_except_across_a_crease():
    """Two triangles that share an edge, folded by an angle; by hand."""
    for degrees, joined in ((20, True), (60, False)):
        fold = np.deg2rad(degrees)
        vertices = np.array(
            [[0, 0, 0], [0, 1, 0], [-1, 0, 0], [2 * np.cos(fold), 0, -2 * np.sin(fold)]]
        )
        faces = np.array([[0, 1, 2], [0, 3, 1]])
        normals = _meshes._corner_normals(vertices, faces).reshape(2, 3, 3)
        left, right = np.array([0, 0, 1]), np.array([np.sin(fold), 0, np.cos(fold)])
        # The right one is twice as large and counts twice.
        both = left + 2 * right
        both /= np.linalg.norm(both)
        shared = [both, both] if joined else [left, right]
        np.testing.assert_allclose(normals[0], [shared[0], shared[0], left], atol=1e-9)
        np.testing.assert_allclose(normals[1], [shared[1], right, shared[1]], atol=1e-9)


def test_merging_closes_cracks_and_drops_what_has_no_area():
    vertices = np.array(
        [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1.01, 0, 0], [1, 1, 0], [0.01, 1, 0]]
    )
    faces = np.array([[0, 1, 2], [3, 4, 5], [4, 5, 3], [1, 3, 4]])
    v, f = _meshes._merge(vertices, faces, 0.1)
    expected = [[0, 0, 0], [0.005, 1, 0], [1.005, 0, 0], [1, 1, 0]]
    np.testing.assert_allclose(sorted(v.tolist()), sorted(expected))
    assert len(f) == 2, "the third is the second again, the fourth is a line"
    edges = [{tuple(sorted((face[k], face[k - 1]))) for k in range(3)} for face in f]
    assert len(edges[0] & edges[1]) == 1, "there is a crack between them"


# The model that is drawn, and the one that is simulated


def test_the_model_is_left_as_it_is():
    pytest.importorskip("fast_simplification")
    whole = model()
    before = content(whole)
    smaller = _meshes.simplified(whole, 0.02)
    assert content(whole) == before
    assert smaller.mesh_facenum[0] < 0.5 * whole.mesh_facenum[0]


def test_how_far_a_surface_may_move():
    """A quarter of a pixel where the scene is, by similar triangles."""
    here = model()
    here.stat.center[:] = 0, 2, 1
    here.cam_fovy[:] = 90
    # At a distance of 3 the picture is 6 high.
    assert _meshes.tolerance(here, 0, 60) == pytest.approx(0.1 / 4)
    assert _meshes.tolerance(here, 0, 120) == pytest.approx(0.05 / 4)


def test_a_camera_that_moves_sees_whole_meshes():
    here = model()
    assert _meshes.tolerance(here, here.camera("moves").id, 64) is None
    assert _meshes.tolerance(here, -1, 64) is None
    here.cam_mode[0] = mujoco.mjtCamLight.mjCAMLIGHT_TRACK
    assert _meshes.tolerance(here, 0, 64) is None


# What cannot be simplified


def test_a_mesh_that_cannot_be_simplified_is_whole_and_named_once():
    pytest.importorskip("fast_simplification")
    textured = model(grid(texcoord=True))
    with pytest.warns(RuntimeWarning, match="'grid' is drawn whole: it has texture"):
        assert _meshes.simplified(textured, 0.02) is textured
    broken = model()
    broken.mesh_vert[3, 1] = np.nan
    with pytest.warns(RuntimeWarning, match="'grid' is drawn whole: not all"):
        assert _meshes.simplified(broken, 0.02) is broken
    with pytest.warns(RuntimeWarning, match="'grid' is drawn whole: nothing"):
        assert _meshes.simplified(model(), 100.0).mesh_facenum[0] > 1000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _meshes.simplified(textured, 0.02) is textured
        # A fine picture needs nearly every triangle, and nothing is wrong with that.
        _meshes.simplified(model(grid(bump=0.2)), 1e-7)


def test_without_the_package_meshes_are_whole_and_it_is_said_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_simplification", None)
    whole = model()
    with pytest.warns(RuntimeWarning, match=r"genreward-wrappers\[metaworld\]"):
        assert _meshes.simplified(whole, 0.02) is whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _meshes.simplified(whole, 0.02) is whole


# Meta-World


def both(task: str, size: int, camera: str = "corner2", seeds: int = 2):
    """(2, seeds, size, size, 3): pictures with whole meshes, and with simpler ones."""
    pytest.importorskip("metaworld")
    from genreward_wrappers.envs.metaworld import MetaWorldEnv

    seen = []
    for quality in ({"whole_meshes": True}, "fast"):
        env = MetaWorldEnv(task, size=size, camera=camera, render_quality=quality)
        frames = []
        for seed in range(seeds):
            env.reset(seed=seed)
            for _ in range(4):
                frame, *_ = env.step(np.array([0.5, -1, 0.2, 1]))
            frames.append(frame)
        env.close()
        seen.append(frames)
    return np.array(seen)


@pytest.mark.parametrize(
    ("task", "size", "camera"),
    [
        ("pick-place", 64, "corner2"),
        ("pick-place", 256, "corner2"),
        ("door-open", 64, "corner3"),
        ("soccer", 64, "corner2"),
        ("handle-press", 64, "corner2"),
        ("plate-slide", 96, "topview"),
    ],
)
def test_what_is_seen_stays(task, size, camera):
    """No more changes than if the camera moved by a millimetre or two."""
    pytest.importorskip("fast_simplification")
    whole, simpler = both(task, size, camera).astype(int)
    difference = np.abs(whole - simpler)
    assert 0 < difference.mean() < 1.5
    assert (difference.max(-1) > 32).mean() < 0.015


@pytest.mark.parametrize("camera", ["gripperPOV", "behindGripper"])
def test_a_camera_on_the_arm_sees_it_whole(camera):
    whole, simpler = both("pick-place", 64, camera, seeds=1)
    np.testing.assert_array_equal(whole, simpler)


def test_an_episode_is_the_same_to_the_last_bit():
    pytest.importorskip("metaworld")
    from genreward_wrappers.envs.metaworld import MetaWorldEnv

    def episode(**options):
        env = MetaWorldEnv("handle-press", **options)
        env.reset(seed=3)
        actions = np.random.default_rng(0).uniform(-1, 1, (40, 4))
        rewards = [env.step(action)[1] for action in actions]
        data, simulated = env._sim.data, content(env._sim.model)
        env.close()
        return rewards, data.qpos.tobytes(), data.qvel.tobytes(), simulated

    assert episode(obs="pixels") == episode(obs="state")


def test_full_and_whole_meshes_are_uploaded_as_they_are(monkeypatch):
    asked = []
    monkeypatch.setattr(_gl, "simplified", lambda model, _: asked.append(1) or model)
    for quality in ("full", {"whole_meshes": True}, {"whole_meshes": False}):
        assert not asked
        chosen = _gl.resolve_quality(quality)
        _gl.OffscreenRenderer(model(), 32, 32, chosen, camera=0).close()
    assert asked


def test_the_finer_the_picture_the_more_is_kept():
    pytest.importorskip("fast_simplification")
    pytest.importorskip("metaworld")
    from genreward_wrappers.envs.metaworld import MetaWorldEnv

    env = MetaWorldEnv("pick-place", obs="state")
    arm = env._sim.model
    kept = [arm.mesh_facenum.sum()]
    for height in (256, 128, 64):
        moved = _meshes.tolerance(arm, env._camera_id, height)
        kept.append(_meshes.simplified(arm, moved).mesh_facenum.sum())
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < kept[0] / 6
