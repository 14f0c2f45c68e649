"""`infoprompt evaluate` on rows of another task than the prompt's own."""

import json


def test_a_prompt_is_scored_on_a_diagnostic_task_by_file_and_by_name(infoprompt, tiny_config, tmp_path, monkeypatch):
    labels = ("entailment", "not_entailment")
    rows = [{"premise": f"film {n}", "hypothesis": "a film", "label": labels[n % 2]} for n in range(8)]
    train = tmp_path / "pairs.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [f"data.{part}={train}" for part in ("train", "validation", "test")]
    trained = infoprompt("train", tiny_config, "data.task=rte", *own, "--json", "--quiet")
    artifact = json.loads(trained.stdout)["artifact"]
    (tmp_path / "AX-b").mkdir()
    file = tmp_path / "AX-b" / "AX-b.jsonl"
    file.write_text("".join(json.dumps({"sentence1": "a", "sentence2": "b", "label": one}) + "\n" for one in labels))
    missing = infoprompt("evaluate", artifact, "--task", "ax")
    assert "No rows of ax are at hand" in missing.stderr
    given = infoprompt("evaluate", artifact, file, "--task", "axb", "--json")
    assert json.loads(given.stdout).keys() == {"matthews", "accuracy"}
    monkeypatch.setenv("INFOPROMPT_DATA", str(tmp_path))
    assert infoprompt("evaluate", artifact, "--task", "axb", "--json").stdout == given.stdout
