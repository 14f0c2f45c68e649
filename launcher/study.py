"""Runs a study file, as a job of Ray on its cluster: `infoprompt study`, where that command is not on the PATH.

ray job submit --working-dir . -- python launcher/study.py configs/studies/core.yaml [key=value ...]
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # see launcher/train.py
    from launcher.cli import main

    sys.argv.insert(1, "study")
    main()
