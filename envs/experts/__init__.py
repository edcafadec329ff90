"""Experts that solve the environments, for demonstrations: one for each, by the environment's id.

```python
expert = EXPERTS["diffpolicy/Detour-v0"](seed=0)
obs, info = env.reset(seed=0)
expert.reset(obs, info)
done = False
while not done:
    obs, _, terminated, truncated, info = env.step(expert.act(obs, info))
    done = terminated or truncated
```
"""

from .base import Expert
from .pucks import DetourExpert, PushBlocksExpert
from .tees import PushTExpert

EXPERTS: dict[str, type[Expert]] = {expert.id: expert for expert in (PushTExpert, PushBlocksExpert, DetourExpert)}

__all__ = ["EXPERTS", "DetourExpert", "Expert", "PushBlocksExpert", "PushTExpert"]
