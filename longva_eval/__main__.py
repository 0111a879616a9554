"""`python -m longva_eval`, and `torchrun -m longva_eval run ...`."""

import sys

from longva_eval.cli import main

if __name__ == "__main__":
    sys.exit(main())
