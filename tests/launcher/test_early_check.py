"""A start names what is wrong with its files before torch is loaded."""

import subprocess
import sys

SCRIPT = """
import sys
from launcher.cli import main
try:
    main()
except SystemExit as end:
    print(end.code, "torch" in sys.modules, "transformers" in sys.modules)
"""


def test_a_damaged_file_ends_training_before_torch_is_loaded(tiny_config, tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,good\n,bad\nb,\nc,bad\n")
    (tmp_path / "test.csv").write_text("text,label\na,ugly\n")
    data = [f"data.{part}={tmp_path / part}.csv" for part in ("train", "test")]
    command = [sys.executable, "-c", SCRIPT, "train", str(tiny_config), *data, "data.validation=null"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.splitlines()[-1] == "2 False False"
    for told in ("The text of row 2 of", "The label of row 3 of", "has the label 'ugly'"):
        assert told in done.stderr
    assert not (tmp_path / "run").exists()
