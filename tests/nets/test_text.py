"""Texts: their encoder, and what attends to them, against torch's attention and against each other."""

import pytest
import torch
from torch import nn

from diffpolicy.nets import ConditionalTransformer, ConditionalUnet1D, FastUnet1D
from diffpolicy.nets.attention import Block, CrossAttention, JointBlock
from diffpolicy.nets.dit2d import ConditionalDiT2D
from diffpolicy.nets.goal import GoalEncoder
from diffpolicy.nets.text import ToldNetwork, WordsEncoder, vocabulary
from diffpolicy.nets.unet1d_fast import copy_weights
from diffpolicy.nets.unet2d import ConditionalUnet2D
from diffpolicy.util.condition import Condition

TEXTS = ("push the left block first", "then the right one", "left")
WIDTH = 16


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return WordsEncoder(vocabulary(TEXTS), features=6, width=WIDTH, heads=2, length=8).eval()


def stirred(net):
    torch.manual_seed(1)
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return net.eval()


def told(encoder, batch=2):
    found = encoder(encoder.ids(TEXTS[:batch]))
    return Condition(torch.cat([torch.randn(batch, 3), found.vector], 1), found.tokens, found.mask)


def test_attention_to_tokens_is_torchs():
    torch.manual_seed(0)
    ours = stirred(CrossAttention(12, 10, 3)).double()
    theirs = nn.MultiheadAttention(12, 3, kdim=10, vdim=10, batch_first=True).double()
    k, v = ours.kv.weight.chunk(2)
    theirs.q_proj_weight.data, theirs.k_proj_weight.data, theirs.v_proj_weight.data = ours.q.weight, k, v
    theirs.in_proj_bias.data = torch.cat([ours.q.bias, ours.kv.bias])
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x, tokens = torch.randn(4, 5, 12).double(), torch.randn(4, 7, 10).double()
    mask = torch.rand(4, 7) < 0.6
    mask[:, 0] = True
    read = ours.read(tokens)
    expected = theirs(ours.norm(x), read, read, key_padding_mask=~mask)[0]
    torch.testing.assert_close(ours(x, tokens, mask) - x, expected, rtol=0, atol=1e-12)


def test_attention_starts_as_the_identity():
    x = torch.randn(2, 5, 12)
    assert torch.equal(CrossAttention(12, 10, 3)(x, torch.randn(2, 7, 10)), x)


def test_a_joint_block_without_tokens_that_count_is_a_block():
    alone = stirred(Block(12, 3, 2, 8, 0.0)).double()
    joint = stirred(JointBlock(12, 3, 2, 8, 0.0)).double()
    stream = joint.streams[0]
    stream.film.load_state_dict(alone.film.state_dict())
    stream.qkv.load_state_dict(alone.attention.qkv.state_dict())
    stream.out.load_state_dict(alone.attention.out.state_dict())
    stream.mlp.load_state_dict(alone.mlp.state_dict())
    x, tokens, features = torch.randn(2, 5, 12), torch.randn(2, 3, 12), torch.randn(2, 1, 8)
    x, tokens, features = x.double(), tokens.double(), features.double()
    none = torch.zeros(2, 3, dtype=torch.bool)
    torch.testing.assert_close(joint(x, features, tokens, none)[0], alone(x, features)[0], rtol=0, atol=1e-12)
    told, said = joint(x, features, tokens)
    assert (told - alone(x, features)[0]).abs().max() > 1e-3 and (said - tokens).abs().max() > 1e-3


def test_padding_says_nothing_and_order_says_something(encoder):
    ids = encoder.ids(TEXTS)
    every = encoder(ids)
    assert every.tokens.shape == (3, 9, WIDTH) and every.vector.shape == (3, 6)
    alone = encoder(ids[2:, :2])  # "left" without its padding
    torch.testing.assert_close(alone.vector, every.vector[2:])
    torch.testing.assert_close(alone.tokens, every.tokens[2:, :2])
    there, back = encoder(encoder.ids(["left then right", "right then left"])).vector
    assert (there - back).abs().max() > 1e-4
    same = encoder.ids(["Push the LEFT block, first!", TEXTS[0]])
    assert torch.equal(same[0], same[1])
    assert len({tuple(row) for row in encoder.null(ids).tolist()}) == 1
    for part, one in zip(encoder(ids[[2, 0, 2, 1, 0]]), encoder(ids), strict=True):
        torch.testing.assert_close(part, one[[2, 0, 2, 1, 0]])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("push the lft block", r"the word 'lft'.*training never saw.*did you mean 'left'"),
        ("", "the text ''; expected words"),
        (" .,!", "expected words"),
        ("left " * 9, "of 9 words; expected at most 8"),
    ],
)
def test_texts_that_it_cannot_know_are_refused(encoder, text, says):
    with pytest.raises(ValueError, match=says):
        encoder.ids([text])


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="a vocabulary without words"):
        WordsEncoder([])
    with pytest.raises(ValueError, match=r"text.width=10 with text.heads=4"):
        WordsEncoder(["a"], width=10)
    with pytest.raises(ValueError, match="joint=true without tokens"):
        ConditionalTransformer(2, 3, joint=True)


@pytest.mark.parametrize("per_step", [False, True])
def test_the_fast_unet_attends_as_the_plain_one(encoder, per_step):
    sizes = {"widths": (16, 24), "groups": 4, "time_features": 8, "token_dim": WIDTH}
    plain = stirred(ConditionalUnet1D(2, 9, **sizes))
    fast = FastUnet1D(2, 9, **sizes).eval()
    copy_weights(plain, fast)
    cond, x = told(encoder), torch.randn(2, 8, 2)
    t = torch.rand(2, 8) if per_step else torch.rand(2)
    with torch.no_grad():
        expected = plain(x, t, cond)
        torch.testing.assert_close(fast(x, t, cond), expected, rtol=0, atol=2e-5)
        fast.freeze((2, 8, 2), per_step)
        torch.testing.assert_close(fast(x, t, cond), expected, rtol=0, atol=2e-5)
        other = cond._replace(tokens=cond.tokens.flip(0), mask=cond.mask.flip(0))
        assert (fast(x, t, other) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("joint", [False, True])
def test_every_transformer_reads_words(encoder, joint):
    told_by = {"token_dim": WIDTH, "joint": joint, "layers": 2, "width": 16, "heads": 2}
    chunks = stirred(ConditionalTransformer(2, 9, **told_by)).double()
    x, t, cond = torch.randn(2, 8, 2).double(), torch.rand(2).double(), told(encoder)
    cond = cond._replace(vector=cond.vector.double(), tokens=cond.tokens.double())
    other = cond._replace(tokens=cond.tokens.flip(0), mask=cond.mask.flip(0))
    for times in (t, t[:, None].expand(2, 8)):
        assert (chunks(x, times, cond) - chunks(x, times, other)).abs().max() > 1e-3
    torch.testing.assert_close(chunks(x, t, cond), chunks(x, t[:, None].expand(2, 8), cond))
    longer = cond._replace(
        tokens=torch.cat([cond.tokens, torch.randn(2, 3, WIDTH).double()], 1),
        mask=torch.cat([cond.mask, torch.zeros(2, 3, dtype=torch.bool)], 1),
    )
    torch.testing.assert_close(chunks(x, t, longer), chunks(x, t, cond))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConditionalUnet2D(
            3, cond_dim=6, token_dim=WIDTH, widths=(8, 16), features=8, block="adaptive", patch=4
        ),
        lambda: ConditionalDiT2D(3, cond_dim=6, token_dim=WIDTH, width=16, layers=2, heads=2),
        lambda: ConditionalDiT2D(3, cond_dim=6, token_dim=WIDTH, width=16, layers=2, heads=2, joint=True),
        lambda: ConditionalDiT2D(3, cond_dim=6, width=16, layers=2, heads=2),
    ],
)
def test_networks_of_images_are_told_by_texts(encoder, make):
    net = make()
    told_by = stirred(ToldNetwork(net, encoder, net.token_dim > 0)).double()
    x, t, ids = torch.randn(3, 3, 16, 16).double(), torch.rand(3).double(), encoder.ids(TEXTS)
    assert (told_by(x, t, ids) - told_by(x, t, ids.flip(0)))[0].abs().max() > 1e-3
    none = told_by(x, t, told_by.null(ids))
    torch.testing.assert_close(none[:1], told_by(x[:1], t[:1], told_by.null(ids[:1])))
    with pytest.raises(ValueError, match="cond.vector has shape None; expected"):
        net(x, t, None)
    with pytest.raises(ValueError, match="which has no label for none"):
        net.null(ids)


def test_conditions_of_other_shapes_are_refused(encoder):
    net = ConditionalTransformer(2, 9, token_dim=WIDTH, layers=1, width=16, heads=2)
    x, t, cond = torch.randn(2, 8, 2), torch.rand(2), told(encoder)
    with pytest.raises(ValueError, match=rf"cond.tokens has shape None; expected \(2, N, {WIDTH}\)"):
        net(x, t, Condition(cond.vector))
    with pytest.raises(ValueError, match=r"cond.tokens has shape \(2, 9, 4\)"):
        net(x, t, cond._replace(tokens=cond.tokens[..., :4]))
    with pytest.raises(ValueError, match=r"cond.mask has shape \(2, 4\); expected \(2, 9\)"):
        net(x, t, cond._replace(mask=cond.mask[:, :4]))
    with pytest.raises(ValueError, match="labels, or a vector"):
        ConditionalDiT2D(1, 10, cond_dim=6)


def test_a_goal_that_is_missing_has_numbers_of_its_own():
    torch.manual_seed(0)
    goal = stirred(GoalEncoder(3, 5))
    given = torch.randn(4, 3)
    none = goal(goal.null(given))
    assert torch.equal(none, goal.none.expand(4, 5)) and goal(given).isfinite().all()
    mixed = torch.where(torch.tensor([True, False, True, False])[:, None], goal.null(given), given)
    torch.testing.assert_close(goal(mixed)[1], goal(given)[1])
    goal(mixed).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in goal.parameters())
