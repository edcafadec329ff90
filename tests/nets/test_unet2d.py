"""The image U-Net: the notes' architecture counted by hand, the interface, and what the blocks promise."""

import pytest
import torch

from diffpolicy.nets.unet2d import AdaptiveBlock, ConditionalUnet2D, NotesBlock

NOTES = {"widths": (32, 64, 128), "layers": 2, "features": 40, "block": "notes"}
SMALL = {"widths": (8, 16), "layers": 1, "features": 8}


def _conv(i, o):
    return 9 * i * o + o


def test_the_notes_network_has_the_parameters_counted_by_hand():
    def block(c):
        adapter = (40 * 40 + 40) + (40 * c + c)
        return 2 * (2 * c + _conv(c, c)) + 2 * adapter

    stages = 2 * (block(32) + block(64)) * 2 + 2 * block(128)  # encoder and decoder, and between them
    between = _conv(32, 64) + _conv(64, 128) + _conv(128, 64) + _conv(64, 32)
    ends = _conv(1, 32) + 2 * 32 + _conv(32, 1)
    embeddings = 20 + 11 * 40
    net = ConditionalUnet2D(1, 10, **NOTES)
    assert sum(p.numel() for p in net.parameters()) == stages + between + ends + embeddings


@pytest.mark.parametrize("options", [{"block": "notes"}, {"block": "adaptive", "patch": 2}])
def test_shapes_gradients_and_null(options):
    torch.manual_seed(0)
    net = ConditionalUnet2D(1, 10, **SMALL, **options)
    x, t, cond = torch.randn(3, 1, 16, 16), torch.rand(3), torch.tensor([0, 9, 4])
    assert net(x, t, cond).shape == x.shape
    assert net.null(cond).tolist() == [10, 10, 10]
    net(x, t, net.null(cond)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    blocks_begin_at_zero = options["block"] == "adaptive"
    assert (net.label.weight.grad[10].abs().sum() == 0) == blocks_begin_at_zero
    assert net.label.weight.grad[:10].abs().sum() == 0


def test_time_and_label_reach_the_output_of_a_trained_network():
    torch.manual_seed(0)
    for block in ("notes", "adaptive"):
        net = ConditionalUnet2D(1, 10, **SMALL, block=block).eval()
        for p in net.parameters():  # as training would: away from the start at 0
            torch.nn.init.normal_(p, std=0.1)
        x, t, cond = torch.randn(1, 1, 16, 16), torch.tensor([0.3]), torch.tensor([3])
        base = net(x, t, cond)
        assert not torch.allclose(base, net(x, torch.tensor([0.6]), cond))
        assert not torch.allclose(base, net(x, t, torch.tensor([4])))


def test_an_adaptive_block_begins_as_the_identity_and_knows_only_its_row():
    torch.manual_seed(0)
    x, features = torch.randn(4, 16, 8, 8), torch.randn(2, 4, 8)
    block = AdaptiveBlock(16, 8)
    assert torch.equal(block(x, *features), x)
    torch.nn.init.normal_(block.second.weight)
    assert torch.allclose(block(x, *features)[1:2], block(x[1:2], *features[:, 1:2]), atol=1e-5)


def test_the_notes_block_is_what_the_notes_print():
    torch.manual_seed(0)
    block = NotesBlock(4, 6)
    x, time, label = torch.randn(5, 4, 8, 8), torch.randn(5, 6), torch.randn(5, 6)
    functional = torch.nn.functional

    def silu_norm_conv(x, layers):
        h = functional.silu(x)
        mean, variance = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), keepdim=True, correction=0)
        return functional.conv2d((h - mean) / (variance + 1e-5).sqrt(), layers[2].weight, layers[2].bias, padding=1)

    h = silu_norm_conv(x, block.first) + (block.time(time) + block.label(label))[:, :, None, None]
    assert torch.allclose(block(x, time, label), x + silu_norm_conv(h, block.second), atol=1e-4)


def test_a_patch_stem_sees_every_pixel_of_its_patches():
    """A feature at 4×4 patches depends on the 3×3 patches around it, all of their pixels, and on no other."""
    torch.manual_seed(0)
    net = ConditionalUnet2D(1, 10, **SMALL, block="adaptive", patch=4)
    x = torch.randn(1, 1, 32, 32, requires_grad=True)
    net.stem(torch.nn.functional.pixel_unshuffle(x, 4))[0, :, 3, 4].sum().backward()
    seen = torch.zeros(32, 32, dtype=torch.bool)
    seen[8:20, 12:24] = True
    assert torch.equal(x.grad[0, 0] != 0, seen)


def _trained_network(**options):
    torch.manual_seed(0)
    net = ConditionalUnet2D(1, 10, **{**SMALL, "widths": (8, 16, 24)}, **options).eval()
    for p in net.parameters():  # as training would: away from the start at 0
        torch.nn.init.normal_(p, std=0.1)
    return net


@pytest.mark.parametrize("block", ["notes", "adaptive"])
def test_without_skips_the_decoder_hears_of_the_image_from_the_middle_alone(block):
    """With the middle silenced, two images give one output; with skips they still differ."""
    x, t, cond = torch.randn(2, 1, 16, 16), torch.full((2,), 0.3), torch.zeros(2, dtype=torch.int64)
    for skips in (True, False):
        net = _trained_network(block=block, skips=skips)
        assert not torch.allclose(*net(x, t, cond))
        net.middle.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
        assert torch.allclose(*net(x, t, cond)) == (not skips)


def test_skips_are_the_default_and_change_no_weight():
    """Weights of one load into the other, so that checkpoints from before there was a choice do."""
    silent, default = _trained_network(skips=False), _trained_network()
    x, t, cond = torch.randn(2, 1, 16, 16), torch.rand(2), torch.tensor([0, 9])
    as_always = _trained_network(skips=True)
    as_always.load_state_dict(silent.state_dict())
    assert torch.equal(as_always(x, t, cond), default(x, t, cond))
    assert not torch.allclose(silent(x, t, cond), default(x, t, cond))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"block": "transformer"}, "adaptive"),
        ({"widths": ()}, r"widths=\[\].*positive"),
        ({"layers": 0}, "layers=0"),
        ({"block": "adaptive", "widths": (8, 12)}, r"\[8, 12\]; expected multiples of 8"),
        ({"features": 7}, "even"),
        ({"time": "wavelet"}, "fourier"),
    ],
)
def test_bad_sizes_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        ConditionalUnet2D(1, 10, **{**SMALL, **change})


def test_bad_calls_are_refused():
    net = ConditionalUnet2D(1, 10, **SMALL)
    x, t, cond = torch.randn(2, 1, 16, 16), torch.rand(2), torch.tensor([0, 1])
    for wrong in [(x[:, :, :15], t, cond), (torch.randn(2, 16, 2), t, cond), (x, t[:1], cond), (x, t, cond.float())]:
        with pytest.raises(ValueError, match="expected"):
            net(*wrong)
    with pytest.raises(ValueError, match="expected"):
        net(x, t, None)
