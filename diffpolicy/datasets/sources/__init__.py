"""Everything that is known about single data sets: one file each, found by name through `catalog`."""

SOURCES = {
    "pusht": "diffpolicy.datasets.sources.pusht:HumanPushT",
    "expert_pusht": "diffpolicy.datasets.sources.pusht:ExpertPushT",
    "pushblocks": "diffpolicy.datasets.sources.shipped:PushBlocks",
    "detour": "diffpolicy.datasets.sources.shipped:Detour",
    "zarr": "diffpolicy.datasets.sources.zarr:OwnRecording",
    "mnist": "diffpolicy.datasets.sources.mnist:MNIST",
    "colored_digits": "diffpolicy.datasets.sources.colored_digits:ColoredDigits",
    "moving_digits": "diffpolicy.datasets.sources.moving_digits:MovingDigits",
    "solids": "diffpolicy.datasets.sources.solids:Solids",
}
"""dataset.name -> module and class."""

TRANSFORMS = {
    "hindsight": "diffpolicy.datasets.hindsight:Hindsight",
    "align": "diffpolicy.datasets.sources.pusht:Align",
    "mirror": "diffpolicy.datasets.sources.pusht:Mirror",
    "left_right": "diffpolicy.datasets.sources.pusht:LeftRight",
}
"""Name in dataset.transforms -> module and class."""
