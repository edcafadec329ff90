"""The catalog: this project's data sets and transforms, and those of installed packages."""

import numpy as np
import pytest
import torch

from diffpolicy import registry
from diffpolicy.config import DatasetConfig, ObservationConfig, PolicyConfig, RunConfig
from diffpolicy.datasets import catalog
from diffpolicy.datasets.inspection import list_sources
from diffpolicy.datasets.load import load_windows
from diffpolicy.datasets.load_episodes import load_demonstrations
from diffpolicy.datasets.transforms import EpisodeTransform

PACKAGE = '''
import numpy as np
from diffpolicy.datasets import ReplayBuffer
from diffpolicy.datasets.catalog import DemonstrationSource
from diffpolicy.datasets.transforms import EpisodeTransform


class Waves(DemonstrationSource):
    """Sines of several frequencies; actions lead by a frame."""

    summary = "sines"
    modes = {"place": "obs (1,)", "both": "obs (2,): place and velocity"}
    rate = 50.0
    units = {"obs": "m"}

    def recorded(self):
        times = np.arange(40) / self.rate
        episodes = [{"time": w * times, "action": np.sin(w * times + 0.02)[:, None]} for w in (3.0, 5.0, 7.0)]
        return ReplayBuffer.from_episodes(episodes)

    def observed(self, recorded):
        seen = [np.sin(recorded["time"]), np.cos(recorded["time"])][: 2 if self.mode == "both" else 1]
        return recorded.with_arrays({"obs": np.stack(seen, 1), "action": recorded["action"]})


class Negated(EpisodeTransform):
    """Actions with the other sign."""

    def apply(self, buffer):
        return buffer.with_arrays({"time": buffer["time"], "action": -buffer["action"]})

    undo = apply


class Both(Negated):
    """Beside the original ones."""

    adds = True
'''
POINTS = """[diffpolicy.source]
waves = other_data:Waves
pusht = other_data:Waves
lost = other_data:Lost
wrong = other_data:Negated
[diffpolicy.transform]
negate = other_data:Negated
with_negated = other_data:Both
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with a source and transforms, which also tries to replace `pusht`."""
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    (tmp_path / "other_data.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    registry.known.cache_clear()
    yield
    registry.known.cache_clear()


def waves(mode=None, transforms=(), name="waves"):
    data = DatasetConfig(name=name, transforms=list(transforms), validation=0.34)
    return RunConfig(observation=ObservationConfig(mode), dataset=data, policy=PolicyConfig(2, 8, 4))


def test_a_source_and_a_transform_of_another_package(package):
    windows = load_windows(waves())
    assert windows.spec.to_plain() == {"obs": {"kind": "vector", "shape": [1], "unit": "m", "rate": 50.0}}
    assert load_windows(waves("both")).spec.vector_dim == 2
    plain = load_demonstrations(waves())
    negated = load_demonstrations(waves(transforms=["negate"]))
    np.testing.assert_array_equal(negated["action"], -plain["action"])
    both = load_windows(waves(transforms=["with_negated"]))
    assert len(both.train) == 2 * len(windows.train) and len(both.validation) == len(windows.validation)
    half = len(windows.train.all_actions())
    actions = both.train.all_actions()
    assert torch.equal(actions[:half], windows.train.all_actions()) and torch.equal(actions[half:], -actions[:half])
    assert load_demonstrations(waves(transforms=["with_negated"]))["action"].shape == plain["action"].shape


def test_the_order_of_transforms(package):
    """Relabeling changes all copies that augmentations before it made."""
    plain = load_windows(waves()).train.all_actions()
    for order in (["negate", "with_negated"], ["with_negated", "negate"]):
        actions = load_windows(waves(transforms=order)).train.all_actions()
        assert torch.equal(actions, torch.cat([-plain, plain]))
    with pytest.raises(ValueError, match=r"transforms=\['negate', 'negate'\]; expected each name once"):
        load_windows(waves(transforms=["negate", "negate"]))


def test_no_package_replaces_what_is_here(package):
    assert catalog.lookup("pusht").__module__ == "diffpolicy.datasets.sources.pusht"
    lines = list_sources().splitlines()
    assert "  waves          sines" in lines and any(
        "'lost' (other_data:Lost) cannot be imported" in x for x in lines
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "wave"}, r"unknown data set \(dataset\.name\) 'wave' \(did you mean 'waves'"),
        ({"name": "lost"}, r"source 'lost' \(other_data:Lost\) cannot be imported .*install the package again"),
        ({"name": "wrong"}, r"source 'wrong' is .*Negated.*expected a subclass of Source"),
        ({"mode": "plaec"}, r"unknown observation\.mode 'plaec' \(did you mean 'place'"),
        ({"transforms": ["mirorr"]}, r"unknown transform \(dataset\.transforms\) 'mirorr' \(did you mean 'mirror'"),
        ({"transforms": ["mirror"]}, r"'mirror' does not suit dataset\.name=waves; expected none, or a general one"),
        ({"name": "detour", "mode": "state"}, r"observation\.mode=state; expected none, which detour has"),
        ({"name": "mnist"}, r"dataset\.name=mnist holds images; expected demonstrations"),
        ({"name": "zarr"}, r"dataset\.name=zarr without a path; say where your data are by dataset\.path"),
    ],
)
def test_what_is_refused(package, settings, message):
    with pytest.raises(ValueError, match=message):
        load_windows(waves(**settings))


@pytest.mark.parametrize("name", catalog.names())
def test_every_source_says_what_it_is(name):
    source = catalog.lookup(name)
    assert source.kind in ("demonstrations", "images") and source.summary and source.__doc__
    assert source.summary in list_sources()


@pytest.mark.parametrize("name", catalog.names("transform"))
def test_every_transform_says_whether_it_acts(name):
    transform = catalog.transform(name)
    assert isinstance(transform, EpisodeTransform) and transform.acts is False
