"""`diffpolicy evaluate` from a checkout: python scripts/evaluate.py checkpoint=RUN/checkpoints/best out=OUT"""

import sys

from diffpolicy.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
