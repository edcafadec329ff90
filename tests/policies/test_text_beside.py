"""Several encoders of one text side by side, and policies and images that are told through them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_instructions import TEXTS, mean_action, recording, settings

from diffpolicy import load_policy, train_policy
from diffpolicy.config.compose import compose
from diffpolicy.datasets.images import LabeledImages
from diffpolicy.datasets.sources.colored_digits import ColoredDigits
from diffpolicy.images import build_generator, found_in
from diffpolicy.policies.text_beside import SideBySide
from diffpolicy.policies.texts import build_text, text_identity

FIXTURES = Path(__file__).parents[1] / "text_towers"
WORDS = ["go", "left", "right", "the", "to"]
PARTS = [
    {"name": "words", "features": 6, "width": 8, "length": 5},
    {"name": "pretrained", "path": str(FIXTURES / "clip"), "features": 4, "width": 12},
]


def made(dropout=(0.5, 0.25), parts=PARTS):
    torch.manual_seed(0)
    return SideBySide(parts, dropout, width=16, words=WORDS)


def test_vectors_stand_one_after_the_other_and_tokens_beside_each_other():
    both = made().eval()
    ids = both.ids(TEXTS)
    first, second = (part.ids(TEXTS) for part in both.parts)
    assert torch.equal(ids, torch.cat([first, second], 1))
    told, (one, other) = both(ids), (part(own) for part, own in zip(both.parts, (first, second), strict=True))
    torch.testing.assert_close(told.vector, torch.cat([one.vector, other.vector], 1))
    assert both.features == 10 and both.width == 16 and told.tokens.shape == (*ids.shape, 16)
    assert torch.equal(told.mask, torch.cat([one.mask, other.mask], 1))
    assert (told.tokens[~told.mask] == 0).all() and (told.tokens[told.mask] != 0).any(1).all()
    assert both.example in WORDS
    with pytest.raises(ValueError, match="the word 'up' of the text 'go up', which training never saw"):
        both.ids(["go up"])


def test_each_is_left_out_in_its_own_share_and_what_is_left_is_whole():
    both = made()
    ids = both.ids(TEXTS[:1]).repeat(4000, 1)
    thinned, none = both.thinned(ids, torch.Generator().manual_seed(0)), both.null(ids)
    out = []
    for start, stop in ((0, 6), (6, ids.shape[1])):
        gone = (thinned[:, start:stop] == none[:, start:stop]).all(1)
        assert torch.equal(thinned[~gone, start:stop], ids[~gone, start:stop])
        out.append(gone)
    shares = [gone.double().mean().item() for gone in out]
    assert shares == pytest.approx([0.5, 0.25], abs=0.025)
    assert (out[0] & out[1]).double().mean().item() == pytest.approx(0.125, abs=0.02)
    assert torch.equal(made((0, 0)).thinned(ids, None), ids)


def test_generators_of_images_leave_parts_out_in_training_alone(monkeypatch):
    size = ["net.widths=[8,16]", "net.layers=1", "net.features=8"]
    both = "[{name: words}, {name: words}]"
    how = [
        "text=beside",
        f"text.parts={both}",
        "text.dropout=[0.9,0.0]",
        "images.condition_dropout=0",
        "images.guidance=1",
    ]
    config = compose(["task=colored_digits", "run_dir=x", *size, *how])
    levels, labels = torch.zeros(400, 3, 28, 28, dtype=torch.uint8), torch.arange(400) % ColoredDigits.classes
    images = LabeledImages(levels, labels)
    generator = build_generator(replace(config, found=found_in(images, ColoredDigits.classes, ColoredDigits.texts)))
    told, given, encoder = [], images.batch(torch.arange(400)), generator.net.text
    monkeypatch.setattr(generator.method, "loss", lambda net, batch, generator: told.append(batch["cond"]))
    for training in (True, False):
        generator.train(training).loss(given, torch.Generator().manual_seed(0))
    whole = generator.ids[labels]
    assert torch.equal(told[1], whole)
    half = whole.shape[1] // 2
    assert torch.equal(told[0][:, half:], whole[:, half:])
    gone = (told[0][:, :half] == encoder.null(whole)[:, :half]).all(1)
    assert torch.equal(told[0][~gone], whole[~gone]) and gone.double().mean().item() == pytest.approx(0.9, abs=0.05)


def test_its_identity_is_that_of_the_encoders_that_bring_weights(tmp_path):
    section = {"name": "beside", "parts": [*PARTS, {**PARTS[1], "path": str(FIXTURES / "t5")}], "dropout": [0, 0, 0]}
    found = text_identity(section)
    assert found == "+".join(text_identity({"name": "pretrained", **part}) for part in section["parts"][1:])
    build_text({**section, "attend": True}, WORDS, found)
    with pytest.raises(ValueError, match=r"text.parts\[2\]: .*another encoder than training had"):
        build_text(section, WORDS, "+".join(found.split("+")[:1] * 2))
    assert text_identity({"name": "beside", "parts": PARTS[:1] * 2, "dropout": [0, 0]}) is None


def test_the_environment_may_name_the_folder_that_holds_them(monkeypatch):
    moved = [PARTS[0], *({**PARTS[1], "path": f"/gone/{kind}"} for kind in ("clip", "t5"))]
    section = {"name": "beside", "parts": moved, "dropout": [0, 0, 0]}
    with pytest.raises(ValueError, match=r"text.parts\[1\]: the text encoder at text.path=/gone/clip lacks"):
        build_text(section, WORDS)
    monkeypatch.setenv("DIFFPOLICY_TEXT", str(FIXTURES))
    assert [type(part._tower[0]).__name__ for part in build_text(section, WORDS).parts[1:]] == ["CLIPText", "T5Text"]


@pytest.mark.parametrize(
    ("parts", "dropout", "says"),
    [
        (PARTS[:1], [0.1], "text.parts of 1; expected two or more"),
        (PARTS, [0.1], r"text.dropout=\[0.1\] of 2 parts; expected a share in \[0, 1\) for each"),
        (PARTS, [0.1, 1.0], r"text.dropout=\[0.1, 1.0\] of 2 parts"),
        ([PARTS[0], {"name": "beside", "parts": PARTS}], [0, 0], "of several encoders each; expected one each"),
        ([PARTS[0], {"name": "wordz"}], [0, 0], "unknown text 'wordz'"),
        ([PARTS[0], {"name": "words", "layers": -1}], [0, 0], r"text.parts\[1\]: text sizes"),
    ],
)
def test_what_does_not_fit_is_refused(parts, dropout, says):
    with pytest.raises(ValueError, match=says):
        made(dropout, parts)


@pytest.mark.parametrize("attend", ["false", "true"])
def test_a_policy_is_told_through_both_and_does_without_either(tmp_path, attend):
    data = recording(tmp_path / "data.zarr")
    one = "{name: words, width: 16, features: 16}"
    other = "{name: pretrained, path: " + str(FIXTURES / "clip") + ", features: 16, width: 16}"
    told = ["text=beside", f"text.parts=[{one},{other}]", "text.dropout=[0.3,0.3]", f"text.attend={attend}"]
    given = [one for one in settings(data, tmp_path / "run", *told) if not one.startswith("text.features")]
    policy = load_policy(train_policy(given))

    def acts(texts):
        return mean_action(policy, texts * 8, np.zeros(8 * len(texts)))[0][:, 0].reshape(8, -1).mean(0)

    np.testing.assert_allclose(acts(TEXTS), [-1, 1, -1, 1], atol=0.3)
    (encoder,) = [module for module in policy.model.modules() if isinstance(module, SideBySide)]
    for part in encoder.parts:  # the other one alone says it
        whole = part.ids
        part.ids = lambda texts, part=part, whole=whole: part.null(whole(texts))
        left, right = acts(TEXTS).reshape(2, 2).T
        assert (right - left > 0.2).all()  # the random weights of the fixtures tell little
        part.ids = whole
    assert abs(acts([""])[0]) < 0.9
