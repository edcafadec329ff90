"""From a config to windows: the same data are known by their content, and a given normalizer holds."""

import shutil

import numpy as np
import pytest
import torch
import zarr

from diffpolicy.config import DatasetConfig, ObservationConfig, PolicyConfig, RunConfig
from diffpolicy.datasets import Normalizer, ReplayBuffer, load_windows, select_episodes
from diffpolicy.datasets.digest import digest_of

RNG = np.random.default_rng(0)
DATA = {
    "obs": RNG.normal(size=(60, 3)).astype(np.float32),
    "action": RNG.normal(size=(60, 2)).astype(np.float32),
    "eye": RNG.integers(0, 256, (60, 4, 4, 3)).astype(np.uint8),
}
ENDS = np.array([12, 24, 36, 48, 60])


def config(path, images=("eye",), **settings):
    return RunConfig(
        observation=ObservationConfig(images=list(images)),
        dataset=DatasetConfig(name="zarr", path=str(path), **{"validation": 0.2, **settings}),
        policy=PolicyConfig(2, 8, 4),
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "own.zarr"
    attrs = {"fps": 20, "units": {"obs": "m"}}
    ReplayBuffer(DATA, ENDS, attrs).save(path)
    return path


def digest(path, **settings):
    return load_windows(config(path, **settings)).digest


def test_the_same_content_at_another_path_and_in_another_container(path, tmp_path, monkeypatch):
    expected = digest(path)
    assert digest(f"{path}/") == digest(path.parent / ".." / path.parent.name / path.name) == expected
    shutil.copytree(path, tmp_path / "copied" / "other name.zarr")
    assert digest(tmp_path / "copied" / "other name.zarr") == expected
    wide = {name: values.astype(np.float64) if name != "eye" else values for name, values in DATA.items()}
    ReplayBuffer(wide, ENDS, {"another": "attribute"}).save(tmp_path / "wide.zarr.zip")
    assert digest(tmp_path / "wide.zarr.zip") == expected
    root = zarr.create_group(tmp_path / "v2.zarr", zarr_format=2)
    published = {**DATA, "eye": DATA["eye"].astype(np.float32)}
    for name, values in {**{f"data/{key}": one for key, one in published.items()}, "meta/episode_ends": ENDS}.items():
        root.create_array(name, data=values, chunks=(3, *values.shape[1:]))
    assert digest(tmp_path / "v2.zarr") == expected
    monkeypatch.setenv("HOME", str(path.parent))
    assert digest(f"~/{path.name}") == expected


def test_other_content_at_the_same_path(path, tmp_path):
    expected = digest(path)
    for name, frame in (("obs", 5), ("action", 59), ("eye", slice(None))):
        changed = {key: values.copy() for key, values in DATA.items()}
        changed[name][frame] = changed[name][frame] // 2 if name == "eye" else changed[name][frame] + 1e-3
        ReplayBuffer(changed, ENDS).save(tmp_path / f"{name}.zarr")
        assert digest(tmp_path / f"{name}.zarr", validation=0.0) != digest(path, validation=0.0)
    ReplayBuffer(DATA, np.array([12, 25, 36, 48, 60])).save(tmp_path / "ends.zarr")
    assert digest(tmp_path / "ends.zarr") != expected
    assert digest(path, episodes=3) != expected and digest(path, images=()) != expected
    assert digest(path, normalize={"obs": "gaussian"}) == expected  # settings are compared for themselves


def test_what_is_held_out_does_not_count(path, tmp_path):
    chosen, held_out = select_episodes(5, validation=0.2)
    for episodes, same in ((held_out, True), (chosen[:1], False)):
        changed = {key: values.copy() for key, values in DATA.items()}
        changed["obs"][12 * episodes[0] + 3] += 1
        ReplayBuffer(changed, ENDS).save(tmp_path / f"{same}.zarr")
        assert (digest(tmp_path / f"{same}.zarr") == digest(path)) is same


def test_a_digest_reads_few_images():
    class Images:
        episode_ends, asked = np.arange(100, 100_001, 100), None

        def read(self, frames):
            self.asked = frames
            return {"eye": np.zeros((len(frames), 2, 2, 3), np.uint8)}

    images = Images()
    buffer = ReplayBuffer({"x": np.zeros((100_000, 1))}, images.episode_ends).subset(range(0, 1000, 2))
    digest_of(buffer, images)
    assert len(images.asked) == 16 and (np.diff(images.asked) > 0).all()
    assert images.asked[0] == 0 and images.asked[-1] == 998 * 100 + 99 and not (images.asked // 100 % 2).any()


def test_what_is_observed_is_described(path):
    spec = load_windows(config(path)).spec
    assert spec.to_plain() == {
        "obs": {"kind": "vector", "shape": [3], "unit": "m", "rate": 20},
        "eye": {"kind": "image", "shape": [4, 4, 3], "unit": None, "rate": 20},
    }


def test_a_given_normalizer_holds(path):
    fitted = load_windows(config(path)).normalizer
    given = Normalizer.fit({"obs": np.array([[-9.0] * 3, [9.0] * 3]), "action": np.array([[-9.0] * 2, [9.0] * 2])})
    windows = load_windows(config(path), normalizer=given)
    assert windows.normalizer is given
    assert not torch.equal(fitted.to_tensors()["obs.scale"], given.to_tensors()["obs.scale"])


def test_applying_and_undoing_a_normalizer(path):
    windows = load_windows(config(path, images=()))
    batch = windows.train.batch(torch.arange(5))
    seen = windows.normalizer.apply({**batch, "label": torch.arange(5)})
    assert windows.normalizer.acts and torch.equal(seen["label"], torch.arange(5))
    assert torch.equal(seen["obs"], windows.normalizer.normalize("obs", batch["obs"]))
    for name, values in batch.items():
        torch.testing.assert_close(windows.normalizer.undo(seen)[name], values)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": ["eyes"]}, r"own\.zarr: unknown key 'eyes' \(did you mean 'eye'"),
        ({"images": ["obs"]}, r"own\.zarr: 'obs' has shape \(60, 3\); expected \(frames, height, width, channels\)"),
        ({"action_key": "actoin"}, r"own\.zarr: unknown key 'actoin' \(did you mean 'action'"),
        ({"action_key": "eye"}, r"'eye' holds images; expected vectors"),
        ({"normalize": {"action": "limit"}}, r"unknown dataset\.normalize\.action 'limit' \(did you mean 'limits'"),
    ],
)
def test_what_does_not_fit(path, settings, message):
    with pytest.raises((ValueError, KeyError), match=message):
        load_windows(config(path, **settings))


def spiky(path, **settings):
    """Three episodes of 400 frames, one frame of which is far off, and a dimension that never moves."""
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, (1200, 3)).astype(np.float32)
    action[:, 1] = 1.5708
    action[977, 2] = 1e4
    ReplayBuffer({"obs": rng.normal(size=(1200, 2)), "action": action}, np.array([400, 800, 1200])).save(path)
    return config(path, images=(), validation=0.0, **settings)


def test_what_is_constant_and_what_spikes_is_said_by_name_and_place(tmp_path):
    constant = "constant in all training episodes, and comes back exactly so: action[1]"
    spike = "action[2] is 10000 at frame 177 of episode 2, while 98% of its frames lie within -0."
    notes = load_windows(spiky(tmp_path / "limits.zarr")).notes
    assert notes[0] == constant and notes[1].startswith(spike) and len(notes) == 2
    assert notes[1].endswith("it squeezes the rest; take dataset.normalize.action=quantiles")
    for number, normalize in enumerate(({"action": "quantiles"}, {"action[2]": "quantiles"})):
        windows = load_windows(spiky(tmp_path / f"{number}.zarr", normalize=normalize))
        assert windows.notes == [constant]
        rest = windows.normalizer.normalize("action", windows.train.all_actions())[:900, 2]
        assert rest.std() > 0.5 and rest.abs().max() < 1.05
    assert load_windows(config(path_of_ordinary_data(tmp_path))).notes == []


def path_of_ordinary_data(folder):
    ReplayBuffer(DATA, ENDS).save(folder / "ordinary.zarr")
    return folder / "ordinary.zarr"
