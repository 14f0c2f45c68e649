from concurrent.futures import ThreadPoolExecutor

import torch

from infoprompt.kept_tensors import read_states, write_states


def test_machines_that_keep_the_same_states_at_once_wait_for_each_other(tmp_path, caplog):
    path, states = tmp_path / f"{'0' * 64}.safetensors", {"first": torch.arange(6.0).view(3, 2)}
    with ThreadPoolExecutor(4) as machines:
        for _ in machines.map(lambda _: write_states(path, states), range(80)):
            pass
    assert caplog.text == ""
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    kept = read_states(path, {"first": (3, 2)})
    assert kept is not None
    assert torch.equal(kept["first"], states["first"])
