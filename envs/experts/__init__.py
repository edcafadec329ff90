"""Experts that solve the environments, for demonstrations: one for each, by the environment's id.

```python
expert = EXPERTS["diffpolicy/Detour-v0"](seed=0)
_, info = env.reset(seed=0)
expert.reset(info)
while not done:
    *_, info = env.step(expert.act(info))
```
"""

from .base import Expert
from .pucks import DetourExpert, PushBlocksExpert
from .tees import PushTExpert

EXPERTS: dict[str, type[Expert]] = {expert.id: expert for expert in (PushTExpert, PushBlocksExpert, DetourExpert)}

__all__ = ["EXPERTS", "DetourExpert", "Expert", "PushBlocksExpert", "PushTExpert"]
