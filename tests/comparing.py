"""A tiny comparison in a folder, whose commands run in this process."""

from contextlib import contextmanager

import pytest
import torch
import yaml

import compare
from comparison import fan, store, timing, work
from diffpolicy import api
from diffpolicy.cli import evaluate, record, train
from diffpolicy.config import RunConfig
from diffpolicy.config.commands import EvaluateConfig, RecordConfig
from diffpolicy.config.compose import compose
from diffpolicy.util import stats

RUN = {"train": (train, RunConfig), "evaluate": (evaluate, EvaluateConfig), "record": (record, RecordConfig)}
TINY = ["speed=float32", "evaluation_episodes=1", "net.widths=[8,16]", "net.time_features=8", "env.max_steps=64"]
TINY += ["training.batch_size=8", "training.steps=2", "training.evaluate_every=1", "training.evaluate_from=1"]


class Bench:
    """A comparison in a folder, which notes the commands that it runs and runs them in this process."""

    def __init__(self, folder, contents):
        self.folder, self.ran, self.results = folder, [], folder / "results"
        self.change(contents)

    def change(self, contents):
        (self.folder / "plan.yaml").write_text(yaml.safe_dump(contents, sort_keys=False))

    def make(self, *names, **settings):
        folders = {"runs_dir": str(self.folder / "runs"), "results": str(self.results)}
        given = {"names": list(names), "plan": str(self.folder / "plan.yaml"), "workers": 0, **folders, **settings}
        return work.Comparison(work.Settings(**given))

    def go(self, *names, **settings):
        """Measure what is left, as `compare.py` does; the exit status."""
        self.ran = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(work, "launch", self._launch)
            return compare.run(self.make(*names, **settings))

    def _launch(self, name, arguments, environment):
        self.ran.append((name, arguments))
        command, schema = RUN[name]
        command.run(compose(arguments, name, schema))
        return 0

    @property
    def stored(self):
        return store.read_results(self.results)


@contextmanager
def quick():
    """Fewer resamples and timed chunks than anybody would want, and no plots of single runs."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "RESAMPLES", 50)
        patch.setattr(timing, "CHUNKS", 2)
        patch.setattr(fan, "VALIDATION_EPISODES", 2)
        patch.setattr(api, "draw_training", lambda *_: None)
        patch.setattr(api, "write_report", lambda *_: None)
        patch.setattr("diffpolicy.evaluation.measure_modes.draw_modes", lambda *_: None)
        yield
