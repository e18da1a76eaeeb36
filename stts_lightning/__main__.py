import sys

from stts_lightning.cli import main

if __name__ == "__main__":  # workers that are spawned import this module again
    sys.exit(main())
