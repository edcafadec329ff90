"""Generative machinery for targets of any shape: points (B, D), trajectories (B, T, D), images (B, C, H, W).

One formula, one file:

- `shapes`       broadcasting of times, row-wise noise, names with near misses
- `paths`        x_t = α(t)·data + σ(t)·noise: α, σ, their derivatives, the log-SNR
- `predictions`  what a network outputs, and the one place that turns it into (data, noise); fields
- `objectives`   losses: draw of t × prediction × weighting
- `solvers`      field -> flow map: Euler … Dormand–Prince, DDIM, DPM-Solver++, Euler–Maruyama
- `sampling`     time grids and the one sampling loop
- `guidance`     field -> field: classifier-free, classifier, clipping, inpainting
- `likelihood`   the discrete variational bound, the density through the flow
- `sde`          processes of any drift as flow maps: Brownian motion, Ornstein–Uhlenbeck; Langevin dynamics
- `mixture`      the Gaussian mixture, whose field and classifier are known in closed form
- `distances`    how far one set of samples is from another

Time runs from t = 0 (noise) to t = 1 (data).
"""
