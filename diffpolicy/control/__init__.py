"""A robot in real time: a control loop that does not wait for its policy, and what stands between the two.

`runner`, `guard`, `planning`, `wire` and `client` need numpy alone (the client msgpack and websockets besides): they
are what runs on a robot, and import nothing of torch.

- `runner`     steps a robot at a fixed rate while chunks are computed beside it
- `guard`      lets no action pass that is beyond limits, or no number
- `planning`   what is asked of whoever plans, here or over the network
- `wire`       messages between a robot and a server, and what of them is checked
- `client`     asks a server as a policy in this process is asked
- `local`      plans with a policy in this process
- `planners`   makes one of a checkpoint
- `server`     plans for many robots; `serve` is the command
- `robots`     a gymnasium environment as a robot, paced by the clock
- `drive`      the command that drives one, and `page` its report
"""
