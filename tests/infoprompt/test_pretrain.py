import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from infoprompt.artifact import Artifact
from infoprompt.config import ConfigError, build_config, override_config
from infoprompt.data.splits import load_splits
from infoprompt.model.backbone.load import load_backbone
from infoprompt.model.build import build_member
from infoprompt.pretraining.pretrain import pretrain
from infoprompt.train import run

PROMPT = {"kind": "ipt", "length": 8, "template": "front", "init": "random"}


@pytest.fixture
def config_for(toy_settings, tmp_path):
    """Config of a pretraining of seconds; keywords are settings of the prompt."""

    def build(**prompt):
        weights = {"head_weight": 0, "representation_weight": 0}
        table = str(tmp_path / "table")
        return build_config({**toy_settings, "objective": weights, "prompt": {**PROMPT, "table": table, **prompt}})

    return build


@pytest.fixture
def built(config_for):
    """The prompt of a run with these settings of the prompt."""

    def build(**prompt):
        config = config_for(**prompt)
        task = load_splits(config.data, config.data_seed).task
        return build_member(config, load_backbone(config.backbone), task).prompt

    return build


@pytest.mark.parametrize("mode", ["prompt", "prefix"])
@pytest.mark.parametrize("encoder", ["none", "cnn", "rnn", "mlp"])
def test_a_table_learns_the_classes_and_starts_the_prompt_of_the_same_encoder(config_for, built, encoder, mode):
    result = pretrain(config_for(encoder=encoder, mode=mode))
    assert result.dev_accuracy >= 0.75  # 12 rows, half of each class; one of four words tells them apart
    tensors = load_file(f"{result.table}/table.safetensors")
    prompt = built(encoder=encoder, mode=mode)
    assert torch.equal(prompt.table_VW, tensors.pop("table"))
    state = {} if prompt.encoder is None else prompt.encoder.state_dict()
    assert {f"encoder.{name}" for name in state if not name.startswith("up.")} == set(tensors)
    assert all(torch.equal(state[name.removeprefix("encoder.")], value) for name, value in tensors.items())


def test_rows_of_seen_tokens_move_and_all_others_keep_their_start(config_for, built):
    start_VW = built(table=None).table_VW.detach()
    config = config_for()
    result = pretrain(config)
    moved_V = (load_file(f"{result.table}/table.safetensors")["table"] != start_VW).any(1)
    tokenizer = load_backbone(config.backbone).tokenizer
    texts = [example.text for example in load_splits(config.data, config.data_seed).train]
    seen = {token for text in texts for token in tokenizer(text)["input_ids"][:8]} | {tokenizer.pad_token_id}
    assert set(moved_V.nonzero().flatten().tolist()) == seen
    assert result.touched_rows == len(seen)
    width, classes = start_VW.shape[1], 2
    assert result.touched_parameters == len(seen) * width + (width + 1) * classes
    assert result.trained_parameters == start_VW.numel() + (width + 1) * classes


def test_the_best_epoch_is_written_and_not_the_last(config_for, tmp_path):
    config = config_for()
    constant = {"lr": 0.03, "warmup_percent": 0, "decay_percent": 0}  # so that a shorter run is a part of a longer one
    result = pretrain(config.model_copy(update={"optim": config.optim.model_copy(update=constant)}))
    best = result.history[result.best_epoch - 1]
    assert best.dev_accuracy == result.dev_accuracy == max(row.dev_accuracy for row in result.history)
    assert best.steps < result.steps
    shorter = config_for(table=str(tmp_path / "shorter"))
    optim = shorter.optim.model_copy(update={**constant, "max_steps": best.steps})
    pretrain(shorter.model_copy(update={"optim": optim}))
    tables = [load_file(tmp_path / name / "table.safetensors")["table"] for name in ("table", "shorter")]
    assert torch.equal(*tables)


@pytest.mark.parametrize("encoder", ["none", "rnn"])
def test_the_same_seed_writes_the_same_bytes(config_for, tmp_path, encoder):
    folders = [tmp_path / name for name in ("first", "again", "other")]
    for folder, seed in zip(folders, (0, 0, 1), strict=True):
        config = config_for(encoder=encoder, table=str(folder))
        torch.rand(seed + 3)  # what was drawn before does not matter
        pretrain(config.model_copy(update={"seed": seed, "optim": config.optim.model_copy(update={"epochs": 1})}))
    contents = [[(folder / name).read_bytes() for name in ("table.safetensors", "table.json")] for folder in folders]
    assert contents[0] == contents[1]
    assert contents[0][0] != contents[2][0]


@pytest.mark.parametrize(
    ("made", "asked", "message"),
    [
        ({"encoder": "cnn"}, {"encoder": "rnn"}, "was trained beside the encoder cnn, but prompt.encoder is rnn"),
        ({"encoder": "cnn"}, {"encoder": "cnn", "length": 6}, "of the first 8 tokens, but prompt.length is 6"),
        ({"mode": "prefix"}, {}, "was made for prompt.mode prefix, but prompt.mode is prompt"),
    ],
)
def test_a_table_for_other_settings_is_refused(config_for, built, made, asked, message):
    config = config_for(**made)
    pretrain(config.model_copy(update={"optim": config.optim.model_copy(update={"max_steps": 1})}))
    with pytest.raises(ConfigError, match=message):
        built(**asked)


def test_a_table_alone_fits_any_length_and_the_mlp_that_it_was_trained_beside(config_for, built):
    pretrain(config_for())
    assert torch.equal(built(length=3).table_VW, built(encoder="mlp").table_VW)


def test_a_table_for_another_vocabulary_is_refused(config_for, tiny_backbones, built):
    config = config_for()
    other = config.backbone.model_copy(update={"name": tiny_backbones["roberta"]})
    pretrain(config.model_copy(update={"backbone": other}))
    with pytest.raises(ConfigError, match="but this backbone has another vocabulary"):
        built()


def test_a_damaged_or_absent_table_is_refused(config_for, built, tmp_path):
    with pytest.raises(ConfigError, match=r"has no table\.safetensors with a table\.json"):
        built()
    pretrain(config_for())
    (tmp_path / "table" / "table.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"has no readable table\.json"):
        built()


def test_a_folder_with_other_files_is_left_alone_and_an_earlier_table_is_overwritten(config_for, tmp_path):
    folder = tmp_path / "table"
    pretrain(config_for())
    first = (folder / "table.json").read_text()
    pretrain(config_for(encoder="cnn"))
    assert (folder / "table.json").read_text() != first
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds other files \(notes.txt\)"):
        pretrain(config_for())
    assert (folder / "notes.txt").read_text() == "mine"


def test_what_cannot_be_pretrained_is_refused(config_for, tmp_path):
    with pytest.raises(ConfigError, match=r"prompt\.table is not given"):
        pretrain(config_for(table=None))
    with pytest.raises(ConfigError, match="only kind ipt has a table"):
        pretrain(override_config(config_for(), ["prompt.kind=static"]))
    values = tmp_path / "values.jsonl"
    values.write_text("".join(json.dumps({"text": f"film {i}", "value": i / 10}) + "\n" for i in range(20)))
    config = config_for()
    data = config.data.model_copy(update={"train": str(values), "test": None})
    with pytest.raises(ConfigError, match="a table is pretrained on classes of texts"):
        pretrain(config.model_copy(update={"data": data}))


def test_an_artifact_predicts_without_the_table_that_its_run_started_from(config_for):
    config = config_for()
    result = pretrain(config)
    trained = run(config.model_copy(update={"optim": config.optim.model_copy(update={"max_steps": 2})}))
    shutil.rmtree(result.table)
    artifact = Artifact.from_pretrained(trained.artifact)
    assert artifact.predict(["a good film"])[0].label in ("good", "bad")
