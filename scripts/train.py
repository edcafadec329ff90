"""`diffpolicy train` from a checkout: python scripts/train.py task=pusht_expert run_dir=runs/demo"""

import sys

from diffpolicy.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
