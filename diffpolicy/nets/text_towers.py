"""The text encoders of CLIP (Radford et al. 2021) and T5 (Raffel et al. 2020), for published weights.

Module names are those of the files in the Hugging Face layout, so that these load as they are. Texts come one at a
time and without padding: (1, L) ids -> (1, L, W), the last hidden states.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _gelu_new(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS = {"quick_gelu": _quick_gelu, "gelu": F.gelu, "gelu_new": _gelu_new, "relu": F.relu}


def _heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


class _CLIPAttention(nn.Module):
    """Causal self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (_heads(project(x), self.heads) for project in (self.q_proj, self.k_proj, self.v_proj))
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(read.transpose(1, 2).flatten(2))


class _CLIPMLP(nn.Module):
    def __init__(self, width: int, inner: int, activation: str) -> None:
        super().__init__()
        self.fc1, self.fc2, self.act = nn.Linear(width, inner), nn.Linear(inner, width), ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class _CLIPLayer(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config.get("layer_norm_eps", 1e-5)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.self_attn = _CLIPAttention(width, config["num_attention_heads"])
        self.mlp = _CLIPMLP(width, config["intermediate_size"], config.get("hidden_act", "quick_gelu"))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


@final
class CLIPText(nn.Module):
    """CLIP's text tower.

    Args:
        config: the published config.json, or its "text_config".
    """

    prefix = "text_model."

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.width, self.longest = config["hidden_size"], config["max_position_embeddings"]
        self.embeddings = nn.ModuleDict(
            {
                "token_embedding": nn.Embedding(config["vocab_size"], self.width),
                "position_embedding": nn.Embedding(self.longest, self.width),
            }
        )
        layers = nn.ModuleList(_CLIPLayer(config) for _ in range(config["num_hidden_layers"]))
        self.encoder = nn.ModuleDict({"layers": layers})
        self.final_layer_norm = nn.LayerNorm(self.width, config.get("layer_norm_eps", 1e-5))

    def forward(self, ids: Tensor) -> Tensor:
        places = self.embeddings["position_embedding"].weight[: ids.shape[1]]
        x = self.embeddings["token_embedding"](ids) + places
        for layer in self.encoder["layers"]:
            x = layer(x)
        return self.final_layer_norm(x)


class _T5Norm(nn.Module):
    """x / √(mean x² + ε) · weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


class _T5Attention(nn.Module):
    """Self-attention without scaling; `relative_attention_bias`, which the first layer has, is every layer's."""

    def __init__(self, config: Mapping[str, Any], first: bool) -> None:
        super().__init__()
        self.heads, inner = config["num_heads"], config["num_heads"] * config["d_kv"]
        self.q, self.k, self.v = (nn.Linear(config["d_model"], inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, config["d_model"], bias=False)
        if first:
            self.relative_attention_bias = nn.Embedding(config["relative_attention_num_buckets"], self.heads)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (_heads(project(x), self.heads) for project in (self.q, self.k, self.v))
        weights = (q @ k.transpose(-2, -1) + bias).softmax(-1)
        return self.o((weights @ v).transpose(1, 2).flatten(2))


class _T5FeedForward(nn.Module):
    """One layer with an activation, or two of which one gates the other."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        kind = config.get("feed_forward_proj", "relu")
        self.gated, width, inner = kind.startswith("gated-"), config["d_model"], config["d_ff"]
        name = kind.removeprefix("gated-")
        self.act = ACTIVATIONS["gelu_new" if kind == "gated-gelu" else name]
        if self.gated:
            self.wi_0, self.wi_1 = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        else:
            self.wi = nn.Linear(width, inner, bias=False)
        self.wo = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(self.act(self.wi_0(x)) * self.wi_1(x) if self.gated else self.act(self.wi(x)))


class _T5Block(nn.Module):
    def __init__(self, config: Mapping[str, Any], first: bool) -> None:
        super().__init__()
        width, eps = config["d_model"], config.get("layer_norm_epsilon", 1e-6)
        attention, feed = _T5Attention(config, first), _T5FeedForward(config)
        parts = [{"SelfAttention": attention}, {"DenseReluDense": feed}]
        self.layer = nn.ModuleList(nn.ModuleDict({**part, "layer_norm": _T5Norm(width, eps)}) for part in parts)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.layer[0]["SelfAttention"](self.layer[0]["layer_norm"](x), bias)
        return x + self.layer[1]["DenseReluDense"](self.layer[1]["layer_norm"](x))


@final
class T5Text(nn.Module):
    """T5's encoder, also of its versions 1.1 with gates.

    Args:
        config: the published config.json.
    """

    prefix = "encoder."

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.width, self.longest = config["d_model"], 512
        self.buckets = config["relative_attention_num_buckets"]
        self.farthest = config.get("relative_attention_max_distance", 128)
        self.embed_tokens = nn.Embedding(config["vocab_size"], self.width)
        self.block = nn.ModuleList(_T5Block(config, k == 0) for k in range(config["num_layers"]))
        self.final_layer_norm = _T5Norm(self.width, config.get("layer_norm_epsilon", 1e-6))

    def forward(self, ids: Tensor) -> Tensor:
        count, x = ids.shape[1], self.embed_tokens(ids)
        distance = torch.arange(count)[None] - torch.arange(count)[:, None]
        of_heads = self.block[0].layer[0]["SelfAttention"].relative_attention_bias(self._bucket(distance))
        bias = of_heads.permute(2, 0, 1)[None]
        for block in self.block:
            x = block(x, bias)
        return self.final_layer_norm(x)

    def _bucket(self, distance: Tensor) -> Tensor:
        """The number of the bias of keys this far to the right of queries: near ones apart, far ones by logarithm."""
        half = self.buckets // 2
        side, away, exact = half * (distance > 0), distance.abs(), half // 2
        ratio = (away.float().clamp(min=1) / exact).log() / math.log(self.farthest / exact)
        far = (exact + (ratio * (half - exact)).long()).clamp(max=half - 1)
        return side + torch.where(away < exact, away, far)


TOWERS = {"clip": CLIPText, "clip_text_model": CLIPText, "t5": T5Text}
"""`model_type` of a config.json -> the tower."""
