import json

SETTINGS = [
    *("prompt.kind=ipt", "prompt.init=random", "prompt.template=front", "prompt.table=made/table"),
    *("objective.head_weight=0", "objective.representation_weight=0", "optim.max_steps=8", "optim.lr=0.03"),
]


def test_pretrain_shows_each_epoch_and_writes_a_table(infoprompt, tiny_config, tmp_path):
    done = infoprompt("pretrain", tiny_config, *SETTINGS, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (tmp_path / result["table"] / "table.safetensors").is_file()
    assert 0 < result["touched_rows"] < result["table_rows"]
    assert [row["steps"] for row in result["history"]] == [2, 4, 6, 8]
    assert f"epoch 4/4  loss {result['history'][3]['loss']:.4f}" in done.stderr
    assert f"dev accuracy {result['dev_accuracy']:.4f} after epoch {result['best_epoch']}" in done.stderr
    assert "prompt.table=made/table" in done.stderr.splitlines()[-1]
