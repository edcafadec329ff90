"""From files of another project to a trained policy, which acts in the units of those files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from typed import typed

from diffpolicy import load_policy
from diffpolicy.policies import PlanRequest

SOURCE = Path(os.environ.get("DIFFPOLICY_DATA", "/nowhere")) / "formats" / "lerobot_v30" / "state"


def _episodes() -> list[tuple[np.ndarray, np.ndarray]]:
    """States and actions of each episode, by a plain read of the source's files."""
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(sorted((SOURCE / "data").rglob("*.parquet"))).to_pydict()
    number = np.array(rows["episode_index"])
    return [
        tuple(np.array(rows[name], np.float64)[number == one] for name in ("observation.state", "action"))
        for one in np.unique(number)
    ]


@pytest.mark.skipif(not SOURCE.exists(), reason="needs the fixtures of formats below DIFFPOLICY_DATA")
def test_a_policy_predicts_what_the_files_hold(tmp_path):
    """The nearest demonstration, which looks its actions up, gives those that are in the files."""
    pytest.importorskip("pyarrow", reason="needs the extra 'recordings'")
    typed(
        *("train", "task=own", "method=nearest", f"dataset.path={SOURCE}", f"data_root={tmp_path}"),
        *("observation.vectors=[observation.state]", "dataset.validation=0", f"run_dir={tmp_path / 'run'}"),
        cwd=tmp_path,
    )
    policy, compared = load_policy(tmp_path / "run" / "checkpoints" / "last"), 0
    for state, action in _episodes():
        for step in range(1, len(state) - policy.action_horizon, 5):
            seen = {"observation.state": state[None, step - 1 : step + 1].astype(np.float32)}
            actions = policy.plan(PlanRequest(seen)).actions[0]
            np.testing.assert_allclose(actions, action[step : step + len(actions)], rtol=0, atol=1e-6)
            compared += 1
    assert compared >= 10
