"""Policies that go on learning where their demonstrations end, from what they do themselves.

A method is a class of one file, see `base.Improvement`. It rolls out by the one rollout loop, trains by the one
training loop, and what comes out is a checkpoint like any other.

- `filtered`          filtered cloning: learn from one's own successes, beside the demonstrations
- `corrections`       an expert takes over in states that the policy reached (DAgger)
- `residual`          a small network changes the actions within bounds, learned off-policy
- `steering`          a small network changes the noise that the policy starts from, learned off-policy
- `corrector`         a small network changes each action by what is observed when it is due; learned from recordings
- `policy_gradient`   the policy gradient through the steps of the sampler
- `best_of`           a critic, learned from rollouts, chooses among several sampled chunks
"""
