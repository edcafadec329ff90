"""Networks, called as net(x, t, cond, r=None), and encoders of images. They know nothing of paths, policies or tasks.

- `base`         what other packages may ask of a network or a model
- `unet1d`       the temporal U-Net for trajectories, to read first; `unet1d_fast` the one to use, of layers in
  `temporal`
- `transformer`  a diffusion transformer over the steps of a trajectory
- `unet2d`       the U-Net for images with a label
- `mlp`          a perceptron for points
- `vision`       from camera images to features: the contract and a small encoder; `resnet` a large one
- `lstm_gmm`     the network of BC-RNN-GMM
- `classifier`   a classifier of images
- `embeddings`   features of time
"""

from diffpolicy.nets.base import Freezable, Fusable, Model, Network
from diffpolicy.nets.mlp import MLP
from diffpolicy.nets.resnet import ResNetEncoder
from diffpolicy.nets.transformer import ConditionalTransformer
from diffpolicy.nets.unet1d import ConditionalUnet1D
from diffpolicy.nets.unet1d_fast import FastUnet1D
from diffpolicy.nets.unet2d import ConditionalUnet2D
from diffpolicy.nets.vision import ImageEncoder

__all__ = [
    "MLP",
    "ConditionalTransformer",
    "ConditionalUnet1D",
    "ConditionalUnet2D",
    "FastUnet1D",
    "Freezable",
    "Fusable",
    "ImageEncoder",
    "Model",
    "Network",
    "ResNetEncoder",
]
