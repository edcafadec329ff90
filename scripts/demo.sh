#!/usr/bin/env bash
# From demonstrations to a policy that pushes the T: sets up .venv, trains, rolls out, and says where to look.
# Arguments go to the training, for example training.steps=500 for a quick look. RUN=folder chooses where the run goes (default runs/demo); run again, it goes on where it stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

if [[ -z "${DIFFPOLICY_DATA:-}" && -d ../shared/data ]]; then
  DIFFPOLICY_DATA=$(cd ../shared/data && pwd)
  export DIFFPOLICY_DATA
fi

make_venv .venv .
run=${RUN:-runs/demo${*:+-$(echo "$*" | cksum | cut -d' ' -f1)}} # other settings, another run
.venv/bin/diffpolicy-train task=pusht_keypoints method=flow run_dir="$run" resume=true max_minutes=15 "$@"
.venv/bin/diffpolicy-evaluate checkpoint="$run/checkpoints/best" episodes=50 out="$run/evaluation" overwrite=true
echo "videos, the fan of sampled actions and evaluation.json: $run/evaluation"
