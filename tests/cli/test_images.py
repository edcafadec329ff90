"""The image commands, as a user types them: train, draw, and what they refuse."""

import functools
import json

import pytest
from typed import typed

from diffpolicy.cli import train
from diffpolicy.config.compose import GROUPS
from diffpolicy.datasets import data_root
from diffpolicy.datasets.sources import mnist

if not (data_root() / "mnist" / "train-images-idx3-ubyte.gz").exists():
    pytest.skip("needs MNIST: set DIFFPOLICY_DATA to the folder that holds mnist/", allow_module_level=True)

TINY = ["training.batch_size=20", "training.steps=6", "training.log_every=2", "training.checkpoint_every=3"]
TINY += ["training.validate_every=0", "net.widths=[8,16]", "net.layers=1", "net.features=8", "speed=float32"]


@pytest.fixture(scope="module", autouse=True)
def read_once():
    """The digits stay in memory from one command to the next: unpacking them takes two seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "load_mnist", functools.cache(mnist.load_mnist))
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    out = typed("train", "task=mnist_notes", *TINY, "run_dir=runs/mnist_notes", cwd=folder)
    assert "60000 images" in out and out.rstrip().endswith("checkpoints/best")
    typed("train", "task=mnist", *TINY, "run_dir=runs/mnist_own", cwd=folder)
    return folder


def test_draw_with_another_solver_on_another_path(runs):
    how = [
        "guidance=[1,2.5]",
        "samples=2",
        "labels=[7,3]",
        "solver=ddpm",
        "path.name=ddpm",
        "path.steps=50",
        "steps=4",
    ]
    options = ["checkpoint=runs/mnist_own/checkpoints/last", *how, "grid=ddpm_trailing"]
    out = typed("sample", *options, "out=A", cwd=runs)
    assert "4 images for each of 2 scales" in out
    assert {file.name for file in (runs / "A").iterdir()} == {
        "samples.png",
        "samples.gif",
        "samples.json",
        "samples.npz",
    }
    found = json.loads((runs / "A/samples.json").read_text())
    assert [row["network_calls"] for row in found["rows"]] == [4, 8] and found["checkpoint"]["step"] == 6
    assert "overwrite=true" in typed("sample", *options, "out=A", cwd=runs, ok=False)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("steps=0", "steps=0; expected an integer >= 1"),
        ("labels=[11]", "integers from 0 to 9"),
        ("solver=eulr", "did you mean 'euler'"),
        ("precision=half", "bfloat16"),
        ("device=abacus", "take device=auto"),
        ("guidance=[nan]", "finite scale"),
        ("grid=ddpm_trailing", "sample on one (images: path.name=ddpm path.steps=1000), or take grid=uniform"),
        ("checkpoint=POLICY", "a checkpoint of policy; expected one of images"),
        ("checkpoint=NOWHERE", "no checkpoint at NOWHERE"),
    ],
)
def test_what_cannot_be_drawn_is_refused(runs, option, says):
    if option.endswith("POLICY") and not (runs / "POLICY").exists():
        from diffpolicy import checkpoint

        made = checkpoint.write(runs / "made", 1, {}, {"policy": {}}, {})
        (runs / "POLICY").symlink_to(made)
    error = typed(
        "sample",
        "checkpoint=runs/mnist_own/checkpoints/last",
        "out=B",
        "samples=1",
        option,
        cwd=runs,
        ok=False,
    )
    assert says in error and "Traceback" not in error
    assert not (runs / "B").exists()


def test_guidance_without_label_dropout_is_refused_before_training(runs):
    options = ["task=mnist", *TINY, "images.condition_dropout=0", "run_dir=C"]
    assert "without label dropout" in typed("train", *options, cwd=runs, ok=False)
    assert not (runs / "C").exists()


def test_a_network_for_something_else_and_a_path_where_none_is_taken_are_refused(runs):
    error = typed("train", "task=mnist", "net=unet1d", "run_dir=E", cwd=runs, ok=False)
    assert "net 'unet1d' does not take channels, labels" in error
    error = typed("train", "task=mnist", "path.name=cosine", "run_dir=E", cwd=runs, ok=False)
    assert "unknown setting 'path.name' (did you mean 'method.path.name'" in error
    assert not (runs / "E").exists()


def test_an_image_checkpoint_is_no_policy(runs):
    error = typed("evaluate", "checkpoint=runs/mnist_own/checkpoints/last", "out=D", cwd=runs, ok=False)
    assert "expected one of a policy" in error and not (runs / "D").exists()


def test_every_group_of_settings_can_be_chosen_on_the_command_line(runs):
    assert train.GROUPS == GROUPS
    error = typed("train", "task=solids", "text=clip", "run_dir=F", cwd=runs, ok=False)
    assert "unknown text 'clip'; choose from beside, pretrained, words" in error
    error = typed("train", "task=solids", "text=pretrained", "text.path=nowhere", "run_dir=F", cwd=runs, ok=False)
    assert "lacks config.json, tokenizer.json, model.safetensors" in error
