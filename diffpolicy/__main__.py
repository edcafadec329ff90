"""`python -m diffpolicy <command> …`, for torchrun and for machines without the console command."""

from diffpolicy.cli import main

if __name__ == "__main__":
    main()
