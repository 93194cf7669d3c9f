"""Training a pose reader: what it learns, what it is judged by, how it resumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genreward_wrappers.cli.main import main
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.files import FileError
from genreward_wrappers.encoders.pose import PoseConfig
from genreward_wrappers.encoders.registry import load_encoder
from genreward_wrappers.training.pose import PoseTrainer, PoseTraining, train_pose
from genreward_wrappers.training.pose_data import Poses, load_poses

SMALL = PoseConfig((1, 0), (16, 16), (8, 8, 8), 32)


def scene(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of a white square, and states (row, column, 7)."""
    rng = np.random.default_rng(seed)
    states = np.column_stack([rng.uniform(2, 11, (n, 2)), np.full(n, 7)])
    frames = np.zeros((n, 16, 16, 3), np.uint8)
    for frame, (row, column, _) in zip(frames, states, strict=True):
        frame[round(row) : round(row) + 4, round(column) : round(column) + 4] = 255
    return frames, states


def poses(episodes: int = 20, n: int = 30) -> Poses:
    return Poses.joined([Poses.of(*scene(n, e), e) for e in range(episodes)])


def episode(seed: int = 0, success: bool = True, states: bool = True) -> Episode:
    """Twelve steps, of which every third is seen."""
    shown = np.arange(0, 13, 3)
    frames, there = scene(13, seed)
    return Episode(
        frames=frames[shown],
        frame_steps=shown,
        actions=np.zeros((12, 1), np.float32),
        success=np.full(12, success),
        states=there.astype(np.float32) if states else None,
        info={"env_id": "metaworld/reach"},
    )


class TestLearning:
    def test_it_reads_where_things_are(self):
        trainer = PoseTrainer(
            poses(), SMALL, PoseTraining(steps=300, batch=32), device="cpu"
        )
        # Untrained, it explains nothing.
        assert max(trainer.judge()["explained"]) < 0.1
        for _ in range(300):
            trainer.update()
        judged = trainer.judge()
        assert min(judged["explained"]) > 0.9
        # Rows were asked for second, columns first.
        held = trainer.data.held_out()
        reader = trainer.reader()
        read = reader.read(trainer.data.frames[held]).numpy()
        true = trainer.data.states[held][:, [1, 0]]
        np.testing.assert_allclose(np.abs(read - true).mean(0), judged["error"], 1e-4)
        np.testing.assert_allclose(true.std(0), judged["spread"], 1e-4)

    def test_every_tenth_episode_is_never_trained_on(self):
        data = poses(20, 2)
        assert sorted(set(data.episodes[data.held_out()])) == [9, 19]
        trainer = PoseTrainer(data, SMALL, device="cpu")
        rows = torch.cat([trainer._draw() for _ in range(20)])
        assert not data.held_out()[rows].any()

    def test_a_quarter_of_a_batch_was_generated(self):
        recorded = poses(10, 20)
        made = Poses.of(*scene(4, 3), 3, generated=True)
        data = Poses.joined([recorded, made])
        trainer = PoseTrainer(data, SMALL, PoseTraining(batch=16), device="cpu")
        rows = trainer._draw()
        assert data.generated[rows].tolist() == [False] * 12 + [True] * 4
        # None of those that are judged was generated.
        assert trainer.judge(generated=True) == {}

    def test_it_resumes_bit_for_bit(self, tmp_path):
        whole = PoseTrainer(poses(), SMALL, PoseTraining(steps=6), device="cpu")
        for _ in range(6):
            whole.update()
        halted = PoseTrainer(poses(), SMALL, PoseTraining(steps=6), device="cpu")
        for _ in range(3):
            halted.update()
        halted.save(tmp_path / "pose.checkpoint")
        said: list[str] = []
        again = PoseTrainer(poses(), SMALL, PoseTraining(steps=6), device="cpu")
        reader = train_pose(again, tmp_path / "pose", every=2, log=said.append)
        assert said[0] == "resumes at update 3 of 6"
        assert not (tmp_path / "pose.checkpoint").exists()
        for name, weight in whole.net.state_dict().items():
            assert torch.equal(weight, reader.model.state_dict()[name].cpu()), name

    def test_it_begins_with_a_trained_reader_and_its_units(self):
        first = PoseTrainer(poses(), SMALL, PoseTraining(seed=1), device="cpu")
        first.update()
        again = PoseTrainer(
            poses(5), SMALL, PoseTraining(), begin=first.reader(), device="cpu"
        )
        for name, weight in first.net.state_dict().items():
            assert torch.equal(again.net.state_dict()[name], weight), name
        # What is read is in its units, not in those of the new episodes.
        wanted = again.data.states[:, [1, 0]]
        expected = (wanted - first.net.mean.numpy()) / first.net.unit.numpy()
        np.testing.assert_allclose(again._wanted.numpy(), expected, rtol=1e-5)
        assert again.provenance()["begin"] == first.reader().fingerprint["sha256"]

    def test_it_begins_with_no_reader_of_other_numbers(self):
        first = PoseTrainer(poses(), SMALL, device="cpu").reader()
        other = PoseConfig((0,), (16, 16), (8, 8, 8), 32)
        with pytest.raises(ValueError, match="begin: it has PoseConfig"):
            PoseTrainer(poses(), other, begin=first, device="cpu")


class TestEpisodes:
    def test_each_picture_gets_the_state_of_its_step(self, tmp_path):
        one = episode()
        one.save(tmp_path / "a.safetensors")
        data = load_poses([tmp_path], (16, 16))
        assert len(data.frames) == 5
        assert np.array_equal(data.states, one.states[[0, 3, 6, 9, 12]])
        assert not data.generated.any()

    def test_generated_pictures_get_the_states_of_the_same_time(self, tmp_path):
        class Maker:
            def __call__(self, frames):
                video = np.repeat(frames[:, None], 4, 1)  # at steps 0, 4, 8 and 12
                return [type("Made", (), {"videos": video})()]

        class Goals:
            generator = "some pipeline"

            def maker(self, env_id):
                assert env_id == "metaworld/reach"
                return Maker()

        one, failed = episode(0), episode(1, success=False)
        one.save(tmp_path / "a.safetensors")
        failed.save(tmp_path / "b.safetensors")
        data = load_poses([tmp_path], (16, 16), Goals())
        made = data.generated
        assert made.sum() == 4
        assert np.array_equal(data.states[made], one.states[[0, 4, 8, 12]])
        assert set(data.episodes[made]) == {0}
        failed.save(tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match="none of the episodes succeeded"):
            load_poses([tmp_path], (16, 16), Goals())

    def test_what_cannot_be_read_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="no recorded episodes"):
            load_poses([tmp_path])
        episode(states=False).save(tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match="holds no states"):
            load_poses([tmp_path], (16, 16))


class TestRefusals:
    @pytest.mark.parametrize(
        ("config", "said"),
        [
            (PoseConfig((3,), (16, 16)), "have 3 numbers, 0 to 2"),
            (PoseConfig((0, 2), (16, 16)), "number 2 never changes"),
            (PoseConfig((0,), (24, 16)), r"are \(16, 16\), expected \(24, 16\)"),
        ],
    )
    def test_of_what_the_episodes_do_not_show(self, config, said):
        with pytest.raises(ValueError, match=said):
            PoseTrainer(poses(), config, device="cpu")

    def test_of_a_single_episode(self):
        with pytest.raises(ValueError, match="at least 2 episodes"):
            PoseTrainer(poses(1), SMALL, device="cpu")

    def test_of_states_that_are_not_finite(self):
        frames, states = scene(3, 0)
        states[1, 0] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            Poses.of(frames, states, 0)

    def test_of_another_runs_checkpoint(self, tmp_path):
        PoseTrainer(poses(), SMALL, device="cpu").save(tmp_path / "pose.checkpoint")
        other = PoseTrainer(poses(), SMALL, PoseTraining(seed=1), device="cpu")
        with pytest.raises(FileError, match="checkpoint of another run"):
            train_pose(other, tmp_path / "pose")

    @pytest.mark.parametrize(
        ("options", "said"),
        [({"steps": 0}, "steps=0"), ({"batch": 0}, "batch=0"), ({"rate": 0}, "rate=0")],
    )
    def test_of_settings(self, options, said):
        with pytest.raises(ValueError, match=said):
            PoseTraining(**options)


def test_the_command_trains_a_reader_and_says_how_well_it_reads(tmp_path, capsys):
    for seed in range(3):
        episode(seed).save(tmp_path / f"episodes/{seed}.safetensors")
    command = ["train-pose", str(tmp_path / "episodes"), "--size", "16", "--columns"]
    output = ["--output", str(tmp_path / "pose"), "--device", "cpu"]
    assert main([*command, "1", "0", "--steps", "2", *output]) == 0
    said = capsys.readouterr().out
    assert "recorded pictures, number 1: off by" in said
    assert "generated" not in said
    reader = load_encoder(str(tmp_path / "pose"), device="cpu")
    assert reader.latent_shape == (2,)
    assert main([*command, "1", "0", *output]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*command, "5", *output[2:], "--output", str(tmp_path / "new")]) == 1
    assert "columns=(5,): the states have 3 numbers" in capsys.readouterr().err
