"""What every network over action steps keeps to."""

import torch

from diffpolicy.util.condition import Condition


def check_rows_keep_their_values(net, rows):
    """Wherever a row stands in a block, its values are the same to the last bit: what makes an evaluation independent
    of how it was batched; see `Policy.block`. The network takes 2 numbers a step and a condition of 40."""
    x, t, cond = torch.randn(rows, 16, 2), torch.rand(rows), Condition(torch.randn(rows, 40))
    with torch.inference_mode():
        base = net(x, t, cond)
        for shift in range(0, rows, 5):
            order = torch.arange(rows).roll(shift)
            assert torch.equal(net(x[order], t[order], cond.rows(order)), base[order])


def check_bfloat16_is_near(net, x, t, cond):
    """Under autocast: float32 comes out, within 3% of what float32 gives."""
    exact = net(x, t, cond)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = net(x, t, cond)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.03 * exact.norm()
