#!/usr/bin/env bash
# From demonstrations to a policy that pushes the T: sets up .venv, trains on the demonstrations that ship with the
# project, rolls out, and writes a page to look at; its path is the last line. Once installed, two cores take about five
# minutes where they multiply in bfloat16, and about 25 where they lack even AVX-512.
# Arguments go to the training, for example training.steps=500 for a quick look. RUN=folder chooses where the run goes
# (default runs/demo); run again, it is resumed where it stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

make_venv .venv .
run=${RUN:-runs/demo${*:+-$(echo "$*" | cksum | cut -d' ' -f1)}} # other settings, another run
.venv/bin/diffpolicy train task=pusht_expert method=flow run_dir="$run" resume=true \
  training.steps=2700 training.evaluate_every=0 "$@"
.venv/bin/diffpolicy evaluate checkpoint="$run/checkpoints/best" episodes=50 out="$run/evaluation" overwrite=true
case $run in /*) echo "$run/evaluation/report.html" ;; *) echo "$PWD/$run/evaluation/report.html" ;; esac
