"""Goals that are generated from the frame with which an episode begins."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from genreward_wrappers import files
from genreward_wrappers.goal_pipeline import generators
from genreward_wrappers.goal_pipeline.checkpoints import find_pipeline
from genreward_wrappers.goal_pipeline.generators import Generator, Model, Sampling
from genreward_wrappers.testing import PointMass
from tests import video_pipelines

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

SIZE = (32, 48)
PROMPT = "push the disc to its target"
ASKED = Sampling(PROMPT, steps=2, frames=9)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Makes each pipeline once: its folder by name."""
    made = {}

    def folder(name, **options):
        key = (name, *options.items())
        if key not in made:
            made[key] = tmp_path_factory.mktemp(name)
            getattr(video_pipelines, name)(**options).save_pretrained(made[key])
        return str(made[key])

    return folder


def start(seed=0, size=SIZE):
    return PointMass(size=size).reset(seed=seed)[0]


# Several videos at once


@pytest.mark.parametrize(
    ("name", "options", "kind", "size"),
    [
        ("cogvideox", {}, "", SIZE),
        ("cogvideox", {}, "unlisted", SIZE),
        ("cogvideox", {"scheduler": "CogVideoXDPMScheduler"}, "", SIZE),
        ("cogvideox", {"image": False}, "", SIZE),
        ("ltx", {}, "LTXPipeline", (32, 64)),
        ("ltx", {}, "LTXImageToVideoPipeline", (32, 64)),
    ],
)
def test_a_batch_is_its_videos_one_by_one(
    name, options, kind, size, folders, monkeypatch
):
    if kind == "unlisted":
        # As those that take one picture, Wan's say.
        kind = ""
        monkeypatch.setattr(generators, "LISTS", ())
    generator = Generator(Model(folders(name, **options), kind=kind, device="cpu"))
    calls = []
    call = type(generator.pipeline).__call__

    def counted(self, **arguments):
        calls.append(arguments)
        return call(self, **arguments)

    monkeypatch.setattr(type(generator.pipeline), "__call__", counted)
    sampling = dataclasses.replace(ASKED, size=size, guidance=3.0, negative="away")
    settings = generator.settings(sampling)
    images = [start(i, size) for i in range(3)] if generator.wants_image else None
    prompts = [PROMPT, "the target", "away"]
    ticks = []
    together = generator.batch(
        settings, [5, 6, 5], images, prompts, lambda *tick: ticks.append(tick)
    )
    assert len(calls) == (1 if generators.LISTS else 3)
    assert ticks[-1] == ((2, 2) if generators.LISTS else (6, 6))
    assert len(together) == 3
    for i, video in enumerate(together):
        image = None if images is None else images[i]
        alone = generator({**settings, "prompt": prompts[i]}, [5, 6, 5][i], image)
        assert video.shape == alone.shape == (9, *size, 3)
        assert np.abs(video.astype(int) - alone).max() <= 1
        assert alone.std() > 1
    # Pictures, words and noise are each a row's own.
    assert np.abs(together[0].astype(int) - together[1]).max() > 1
    assert np.abs(together[0].astype(int) - together[2]).max() > 1


def test_a_batch_without_prompts_of_its_own_has_that_of_the_settings(folders):
    generator = Generator(Model(folders("cogvideox"), device="cpu"))
    settings = generator.settings(ASKED)
    one, two = generator.batch(settings, [1, 2], [start(0), start(1)])
    for video, seed in ((one, 1), (two, 2)):
        alone = generator(settings, seed, start(seed - 1))
        assert np.abs(video.astype(int) - alone).max() <= 1
    with pytest.raises(ValueError, match="images: expected one for each of 2 seeds"):
        generator.batch(settings, [1, 2], [start()])
    with pytest.raises(ValueError, match="prompts: expected one for each of 1 seeds"):
        generator.batch(settings, [1], [start()], ["a", "b"])
    with pytest.raises(ValueError, match="continues a picture"):
        generator.batch(settings, [1, 2])
    with pytest.raises(ValueError, match="another aspect"):
        generator.batch(settings, [1, 2], [start(), start(size=(32, 32))])


# Generators that come with the package


def test_embedded_generators_are_found_by_name(folders, tmp_path, monkeypatch):
    folder = folders("cogvideox")
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "tiny").symlink_to(folder, target_is_directory=True)
    monkeypatch.setattr(files.resources, "files", lambda _: tmp_path)
    found = find_pipeline("embedded:tiny", None)
    assert found.source == "embedded:tiny"
    assert found.revision == find_pipeline(folder, None).revision
    assert Generator(Model("embedded:tiny", device="cpu")).name.startswith("CogVideoX")
    with pytest.raises(ValueError, match=r"no embedded generator 'big'.*\['tiny'\]"):
        find_pipeline("embedded:big", None)
    with pytest.raises(ValueError, match="is a local folder, which has none"):
        find_pipeline("embedded:tiny", "main")
