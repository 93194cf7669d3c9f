"""The Distracting Control Suite: dm_control with distractions in the picture.

Stone et al. 2021 (arXiv 2101.02722) change three things of dm_control's pictures, each
more the more difficult it is: the place of the camera, the colours, and what is seen in
the sky. `DistractingEnv` is `DmControlEnv` with these, implemented from the paper. The
physics, the states and the rewards are those of the undistracted task to the last bit:
distractions have random numbers of their own and are put on right before a picture is
drawn and taken off after it.

How each one moves is in `walks`, where the videos come from in `backgrounds`.

Importing this module imports neither mujoco nor dm_control.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.checks import one_of, share
from genreward_wrappers.envs._gl import OffscreenRenderer, RenderQuality
from genreward_wrappers.envs.backgrounds import find_videos
from genreward_wrappers.envs.dm_control import DmControlEnv
from genreward_wrappers.envs.walks import CameraRange, CameraWalk, ColorWalk, VideoWalk

if TYPE_CHECKING:
    from collections.abc import Sequence

DISTRACTIONS: tuple[str, ...] = ("camera", "color", "background")

DIFFICULTIES: dict[str, tuple[float, int | None]] = {
    "easy": (0.1, 4),
    "medium": (0.2, 8),
    "hard": (0.3, None),
}
"""The intensity of camera and colours, and the number of videos (None for all)."""

# How much of the ground is left where the sky has a video: it hides it in most tasks.
_GROUND_ALPHA = {"reacher": 0.0, "walker": 1.0, "cheetah": 1.0}
_OTHER_GROUND_ALPHA = 0.3

# A face of the sky fills more than the picture; finer than this is not seen.
_SKY_PIXELS_PER_PIXEL = 2
# Which of the sky's faces is under the ground.
_BELOW = 3


class DistractingEnv(DmControlEnv):
    """One task of dm_control's suite, with distractions in its pictures.

    Every episode draws new ones, from random numbers that ``reset(seed=...)`` seeds. A
    distraction is the same alone and together with the others, and is a function of the
    episode and of the control steps gone by: what nobody looks at is not drawn and
    costs nothing.

    Attributes:
        difficulty: "easy", "medium" or "hard".
        distractions: Those that are on.

    Example:
        >>> import gymnasium as gym
        >>> import genreward_wrappers
        >>> env = gym.make(
        ...     "distracting/walker-walk", difficulty="medium"
        ... )  # doctest: +SKIP
    """

    def __init__(
        self,
        task: str = "walker-walk",
        difficulty: Literal["easy", "medium", "hard"] = "easy",
        distractions: str | Sequence[str] = DISTRACTIONS,
        dynamic: bool = True,
        background: str | Sequence[str] = "noise",
        background_split: Literal["train", "validation"] = "train",
        background_alpha: float = 1.0,
        ground_alpha: float | None = None,
        obs: Literal["pixels", "state", "dict"] = "pixels",
        size: int | Sequence[int] = 64,
        camera: int | str = 0,
        render_quality: RenderQuality = "fast",
        action_repeat: int = 1,
        render_mode: Literal["rgb_array"] | None = None,
    ) -> None:
        """Builds the task's simulation; no picture is drawn yet.

        Args:
            task: One of `dm_control.TASKS`.
            difficulty: The intensity of camera and colours is 0.1, 0.2 or 0.3, and the
                number of videos 4, 8 or all.
            distractions: Some of "camera", "color" and "background".
            dynamic: Whether they move during an episode; else they stay as the episode
                has begun.
            background: "noise" or "gradients", computed here; or a folder, DAVIS's or
                one with subfolders of images, videos and images in it; or a list of
                such paths.
            background_split: "train" or "validation": DAVIS 2017's 60 and 30 videos,
                and as many different ones of the computed kinds.
            background_alpha: How much of the original sky the video covers, from 0 to
                1.
            ground_alpha: How much of the ground is left under a video, from 0 to 1;
                None for the suite's: 0 for reacher, 1 for walker and cheetah, 0.3 for
                others.
            obs: As in `DmControlEnv`, like all that follow.
            size: Of the picture.
            camera: The camera that wanders, too; not the free one (-1).
            render_quality: What is drawn.
            action_repeat: Distractions move with each of the repeats.
            render_mode: "rgb_array" makes `render` return the frame.
        """
        super().__init__(
            task, obs, size, camera, render_quality, action_repeat, render_mode
        )
        one_of(DIFFICULTIES, difficulty=difficulty)
        chosen = [distractions] if isinstance(distractions, str) else distractions
        for name in chosen:
            one_of(DISTRACTIONS, distractions=name)
        self.difficulty = difficulty
        self.distractions = tuple(name for name in DISTRACTIONS if name in chosen)
        self._intensity, count = DIFFICULTIES[difficulty]
        self._dynamic = dynamic
        self._camera: CameraWalk | None = None
        self._colors: ColorWalk | None = None
        self._video: VideoWalk | None = None
        self._shown: tuple[int, int] | None = None
        if "camera" in self.distractions and self._camera_id < 0:
            raise ValueError(
                "the free camera (-1) does not wander: give one of the model's "
                "cameras, or leave 'camera' out of the distractions"
            )
        if "background" in self.distractions:
            self._cover = share("background_alpha", background_alpha)
            if ground_alpha is None:
                domain = self.task.partition("-")[0]
                ground_alpha = _GROUND_ALPHA.get(domain, _OTHER_GROUND_ALPHA)
            self._ground_alpha = share("ground_alpha", ground_alpha)
            self._ground = self._model.material("grid").id
            self._shrink_sky()
            side = len(self._sky[0])
            self._videos = find_videos(background, background_split, side, count)

    def _begin(self) -> None:
        # Streams of their own, so that one is the same whichever others there are.
        seed = np.random.SeedSequence(int(self.np_random.integers(2**63)))
        streams = [np.random.default_rng(child) for child in seed.spawn(3)]
        if "camera" in self.distractions:
            self._camera = self._camera_walk(streams[0])
        if "color" in self.distractions:
            original = self._model.mat_rgba[:, :3].astype(np.float64)
            self._colors = ColorWalk(
                streams[1], original, self._intensity, self._dynamic
            )
        if "background" in self.distractions:
            self._video = VideoWalk(streams[2], self._videos, self._dynamic)

    def _draw(self, renderer: OffscreenRenderer) -> NDArray[np.uint8]:
        model, data = self._model, self._sim.physics.data.ptr
        place, turn = data.cam_xpos[self._camera_id], data.cam_xmat[self._camera_id]
        kept = model.mat_rgba.copy(), place.copy(), turn.copy()
        step = self._control_steps
        try:
            if self._colors is not None:
                model.mat_rgba[:, :3] = self._colors.at(step)
            if self._video is not None:
                model.mat_rgba[self._ground, 3] = self._ground_alpha
                self._show(self._video.video, self._video.at(step), renderer)
            if self._camera is not None:
                pose = self._camera.at(step)
                place[:], axes = moved(place, turn.reshape(3, 3), self._distance, *pose)
                turn[:] = axes.ravel()
            return super()._draw(renderer)
        finally:
            model.mat_rgba[:], place[:], turn[:] = kept

    # The camera

    def _camera_walk(self, rng: np.random.Generator) -> CameraWalk:
        data = self._sim.physics.data.ptr
        place = data.cam_xpos[self._camera_id]
        # It turns around the point in the middle of the picture that is as far away as
        # the agent, whose first body has the number 1.
        away = float(np.linalg.norm(place - data.subtree_com[1]))
        self._distance = max(away, 0.1)
        # Above the ground, where there is one to sink into.
        downwards = upwards = np.inf
        if not self.task.startswith("reacher-"):
            back = data.cam_xmat[self._camera_id].reshape(3, 3)[:, 2]
            height = float(np.arcsin(np.clip(back[2], -1, 1)))
            downwards, upwards = max(height, 0.0), np.pi / 2 - height
        return CameraWalk(
            rng,
            CameraRange.at(self._intensity),
            self._distance,
            downwards,
            upwards,
            self._dynamic,
        )

    # The sky

    def _shrink_sky(self) -> None:
        """Makes the sky's texture as small as the picture allows.

        It is 800x800 a face, and to upload it would be the dearest part of a step. All
        six faces are kept, since the original ones, which may shine through, differ.
        """
        import mujoco

        model = self._model
        sky = int(
            np.flatnonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX)[0]
        )
        width = int(model.tex_width[sky])
        start = int(model.tex_adr[sky])
        faces = model.tex_data[start : start + 6 * width * width * 3]
        faces = faces.reshape(6, width, width, 3)
        side = min(width, _SKY_PIXELS_PER_PIXEL * max(self.size))
        pick = (np.arange(side) + 0.5) * width / side
        index = pick.astype(int)
        small = faces[:, index][:, :, index].copy()
        model.tex_width[sky], model.tex_height[sky] = side, 6 * side
        self._sky_id = sky
        # A view into the model, from which it is uploaded.
        self._sky = model.tex_data[start : start + small.size].reshape(small.shape)
        self._sky[:] = small
        self._shining_through = (1 - self._cover) * small

    def _show(self, video: int, frame: int, renderer: OffscreenRenderer) -> None:
        """Puts a frame of a video on the sky, unless it is there already."""
        if self._shown == (video, frame):
            return
        picture = self._videos[video].frame(frame)
        # Faces are seen from inside, and the one below with its top towards the viewer.
        faces = np.broadcast_to(picture[:, ::-1], self._sky.shape)
        below = picture[::-1]
        if self._cover < 1:
            faces = self._cover * faces + self._shining_through
            below = self._cover * below + self._shining_through[_BELOW]
        self._sky[:] = faces
        self._sky[_BELOW] = below
        renderer.upload_texture(self._sky_id)
        self._shown = video, frame


def moved(
    place: NDArray[np.float64],
    axes: NDArray[np.float64],
    reach: float,
    horizontal: float,
    vertical: float,
    distance: float,
    roll: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turns a camera around the point that it looks at.

    Args:
        place: (3,) where it is.
        axes: (3, 3) its right, up and backward axes as columns.
        reach: How far away the point is, in the middle of the picture.
        horizontal: Radians around the vertical axis through the point.
        vertical: Radians upwards, around the camera's right axis.
        distance: From the point, afterwards.
        roll: Radians around the axis along which it looks.

    Returns:
        Place and axes afterwards. The point is in the middle of the picture still.
    """
    point = place - reach * axes[:, 2]
    # Right to left: roll in the camera's own axes, rise around its right one, which
    # comes first as it is the camera's, then around the world's vertical.
    turned = _around_z(horizontal) @ axes @ _around_x(-vertical) @ _around_z(roll)
    return point + distance * turned[:, 2], turned


def _around_x(angle: float) -> NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _around_z(angle: float) -> NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
