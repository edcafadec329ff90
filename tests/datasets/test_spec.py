"""The one description of what is observed: what it takes apart, and what it refuses."""

import numpy as np
import pytest
from gymnasium import spaces

from diffpolicy.datasets.spec import Field, ObservationSpec

BLIND = ObservationSpec({"points": Field("vector", (3, 2), "px", 10), "agent": Field("vector", (2,))})
SEEING = ObservationSpec({"agent": Field("vector", (2,)), "eye": Field("image", (4, 5, 3))})
RNG = np.random.default_rng(0)


def seen(*leading, **changed):
    entries = {"agent": RNG.normal(size=(*leading, 2)), "eye": RNG.integers(0, 256, (*leading, 4, 5, 3), np.uint8)}
    return {**entries, "unused": np.zeros(3), **changed}


def test_vectors_are_joined_in_order_and_images_kept_apart():
    obs = {"agent": RNG.normal(size=(7, 3, 2)), "points": RNG.normal(size=(7, 3, 3, 2))}
    vector, images = BLIND.split(obs, 3)
    assert vector.dtype == np.float32 and images == {}
    expected = np.concatenate([obs["points"].reshape(7, 3, 6), obs["agent"]], axis=2)
    np.testing.assert_array_equal(vector, expected.astype(np.float32))
    np.testing.assert_array_equal(BLIND.split(expected, 3)[0], vector)  # the joined vectors alone
    flat = {**obs, "points": obs["points"].reshape(7, 3, 6)}
    np.testing.assert_array_equal(BLIND.split(flat, 3)[0], vector)
    assert BLIND.vector_dim == 8 and list(BLIND.vectors) == ["points", "agent"] and not BLIND.images

    obs = seen(7, 3)
    vector, images = SEEING.split(obs, 3)
    np.testing.assert_array_equal(images["eye"], obs["eye"])
    assert vector.shape == (7, 3, 2) and list(images) == ["eye"]


def test_one_moment_gets_an_axis_of_time():
    vector, images = SEEING.split(seen(7), None)
    assert vector.shape == (7, 1, 2) and images["eye"].shape == (7, 1, 4, 5, 3)
    assert BLIND.split(np.zeros((7, 8)), None)[0].shape == (7, 1, 8)


def test_plain_data_and_back():
    for spec in (BLIND, SEEING):
        again = ObservationSpec.from_plain(spec.to_plain())
        assert again == spec and list(again) == list(spec)
    assert BLIND.to_plain()["points"] == {"kind": "vector", "shape": [3, 2], "unit": "px", "rate": 10}
    other = ObservationSpec({key: BLIND[key] for key in reversed(list(BLIND))})
    assert other != BLIND  # the joined vector would be another one
    with pytest.raises(ValueError, match=r"unknown setting of an observation 'shap' \(did you mean 'shape'"):
        ObservationSpec.from_plain({"a": {"kind": "vector", "shap": [2]}})


def test_checkpoints_that_name_their_cameras_alone():
    found = {"eye": {"kind": "image", "shape": [4, 5, 3]}}
    assert ObservationSpec.of_checkpoint(found, ["agent"], 2) == SEEING
    spec = ObservationSpec.of_checkpoint({}, ["points", "agent"], 8)
    assert spec.vector_dim == 8 and spec["points"].shape is None
    obs = {"agent": np.ones((1, 2, 2)), "points": np.zeros((1, 2, 3, 2))}
    assert spec.split(obs, 2)[0][0, 0].tolist() == [0] * 6 + [1] * 2
    with pytest.raises(ValueError, match=r"'points', 'agent' together have 6 numbers; expected 8"):
        spec.split({**obs, "points": np.zeros((1, 2, 2, 2))}, 2)
    assert ObservationSpec.of_checkpoint(BLIND.to_plain(), ["points", "agent"], 8) == BLIND


@pytest.mark.parametrize(
    ("obs", "error", "message"),
    [
        (np.zeros((7, 3, 2)), TypeError, r"ndarray of shape \(7, 3, 2\); expected a mapping with .*image 'eye'"),
        (
            {"agnet": np.zeros((7, 3, 2)), "eye": seen(7, 3)["eye"]},
            ValueError,
            r"lacks 'agent' \(did you mean 'agnet'",
        ),
        (seen(7, 3, eye=np.zeros((7, 3, 4, 5, 3))), TypeError, r"'eye'\] is float64; .*look like 0 to 1: give"),
        (seen(7, 3, eye=np.full((7, 3, 4, 5, 3), -0.5)), TypeError, r"look like -1 to 1: give"),
        (seen(7, 3, eye=np.full((7, 3, 4, 5, 3), 9)), TypeError, r"look like 0 to 255: give x\.astype"),
        (seen(7, 3, eye=np.full((7, 3, 4, 5, 3), 900)), TypeError, r"no known range of images"),
        (
            seen(7, 3, eye=np.zeros((7, 3, 3, 4, 5), np.uint8)),
            ValueError,
            r"the channels come last: give np\.moveaxis",
        ),
        (seen(7, 3, eye=np.zeros((7, 3, 8, 5, 3), np.uint8)), ValueError, r"scale or crop the images"),
        (seen(3), ValueError, r"T_o, H, W, C\) = \(3, 3, 4, 5, 3\)"),
        (
            seen(7, 3, agent=np.zeros((7, 2, 2))),
            ValueError,
            r"'agent'\] has shape \(7, 2, 2\); expected .*\(7, 3, 2\)",
        ),
        (seen(7, 3, agent=np.zeros((7, 3, 4))), ValueError, r"'agent'\] has shape \(7, 3, 4\)"),
        (seen(7, 3, agent=np.full((7, 3, 2), np.nan)), ValueError, r"NaN or infinity \(sample 0\)"),
    ],
)
def test_what_cannot_be_observed(obs, error, message):
    with pytest.raises(error, match=message):
        SEEING.split(obs, 3)


def test_arrays_of_another_shape():
    with pytest.raises(
        ValueError, match=r"obs has shape \(3, 8\); .*= \(B, 3, 8\); add the batch axis with agent.act\(\[obs"
    ):
        BLIND.split(np.zeros((3, 8)), 3)
    with pytest.raises(ValueError, match=r"obs has shape \(7, 3, 9\)"):
        BLIND.split(np.zeros((7, 3, 9)), 3)
    with pytest.raises(ValueError, match=r"\(B, D\) = \(B, 8\); add the batch axis"):
        BLIND.split(np.zeros(8), None)


def test_spaces_that_fit():
    box = spaces.Box(-1, 1, (8,))
    BLIND.check_space(box, spaces.Box(-1, 1, (2,)), 2)
    BLIND.check_space(spaces.Dict({"points": spaces.Box(-1, 1, (3, 2)), "agent": spaces.Box(-1, 1, (2,))}))
    eye = spaces.Box(0, 255, (4, 5, 3), np.uint8)
    SEEING.check_space(spaces.Dict({"agent": spaces.Box(-1, 1, (2,)), "eye": eye, "more": box}))


@pytest.mark.parametrize(
    ("spec", "space", "message"),
    [
        (BLIND, spaces.Box(-1, 1, (9,)), r"Arm-v0 shows \(9,\); expected .*'points' \(3, 2\).*env\.id=null"),
        (BLIND, spaces.Dict({"agent": spaces.Box(-1, 1, (8,))}), r"shows \{'agent': \(8,\)\}"),
        (SEEING, spaces.Box(-1, 1, (2,)), r"shows \(2,\); expected .*image 'eye'"),
        (
            SEEING,
            spaces.Dict({"agent": spaces.Box(-1, 1, (2,)), "eye": spaces.Box(0, 1, (4, 5, 3))}),
            r"shows 'eye' as float32; expected uint8 images",
        ),
    ],
)
def test_spaces_that_do_not_fit(spec, space, message):
    with pytest.raises(ValueError, match=message):
        spec.check_space(space, env="Arm-v0")


def test_actions_that_do_not_fit():
    with pytest.raises(ValueError, match=r"takes actions \(3,\); expected \(2,\)"):
        BLIND.check_space(spaces.Box(-1, 1, (8,)), spaces.Box(-1, 1, (3,)), 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Field("picture", (4, 5, 3)), "unknown kind of observation 'picture'"),
        (lambda: Field("image", (4, 5)), r"image of shape \(4, 5\); expected \(height, width, channels\)"),
        (lambda: Field("vector", (0,)), r"shape \(0,\); expected positive sizes"),
        (lambda: ObservationSpec({"a": Field("vector")}), "unknown shapes; expected vector_dim"),
        (lambda: ObservationSpec({"a": Field("vector", (2,))}, 3), "vector_dim=3; expected 2"),
    ],
)
def test_impossible_specs(make, message):
    with pytest.raises(ValueError, match=message):
        make()
