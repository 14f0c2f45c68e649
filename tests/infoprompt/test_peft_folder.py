"""What PEFT makes of an exported prompt, and what is made of a prompt by PEFT."""

import os
import re

import pytest
import torch
from peft import (
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForTokenClassification
from typer.testing import CliRunner

from infoprompt.artifact import Artifact
from infoprompt.artifact_files import ArtifactError
from infoprompt.config import ConfigError, build_config
from infoprompt.data.rows import Example
from infoprompt.data.task import Task
from infoprompt.model.backbone.load import load_backbone
from infoprompt.model.build import build_member
from infoprompt.peft.export import export_to_peft
from infoprompt.peft.read import flat_prefix
from launcher.cli import app

TEXT = "the film was good and they have cash"
BEFORE = {"kind": "static", "length": 3, "init": "random", "template": "before"}
PREFIX = {"kind": "prefix", "length": 3}

# PEFT 0.21 asks transformers 5.23 for a name that is on its way out
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def run_readme(folder, text: str = TEXT, second: str = "") -> torch.Tensor:
    """The scores that the folder's own README computes for a text."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL).group(1)
    code = code.replace("this folder", str(folder)).replace("some text", text).replace("its second text", second)
    names: dict = {}
    exec(code, names)
    return names["scores"]


def log_probabilities(artifact: Artifact, example: str | Example = TEXT) -> torch.Tensor:
    return torch.tensor([list(artifact.predict([example])[0].probabilities.values())]).log()


def assert_same(scores: torch.Tensor, log_probability: torch.Tensor) -> None:
    # float32 rounding over two layers, in another attention kernel
    torch.testing.assert_close(scores.log_softmax(1), log_probability, atol=2e-5, rtol=1e-4)


CASES = [
    ("bert", BEFORE, "mean", "TOKEN_CLS"),
    ("bert", BEFORE, "first", "TOKEN_CLS"),
    ("bert", PREFIX, "mask", "TOKEN_CLS"),
    ("bert", {**BEFORE, "kind": "residual"}, "mask", "TOKEN_CLS"),
    ("roberta", BEFORE, "mask", "TOKEN_CLS"),
    ("roberta", PREFIX, "first", "TOKEN_CLS"),
    ("electra", BEFORE, "mean", "TOKEN_CLS"),
    ("electra", PREFIX, "mean", "TOKEN_CLS"),
    ("albert", BEFORE, "mean", "TOKEN_CLS"),
    ("deberta-v2", BEFORE, "mean", "TOKEN_CLS"),
    ("modernbert", BEFORE, "mean", "FEATURE_EXTRACTION"),
    ("gpt2", BEFORE, "last", "SEQ_CLS"),
    ("gpt2", PREFIX, "last", "SEQ_CLS"),
    ("gpt2", PREFIX, "mean", "TOKEN_CLS"),
    ("llama", {**BEFORE, "kind": "p_tuning"}, "last", "SEQ_CLS"),
    ("llama", BEFORE, "mean", "TOKEN_CLS"),
    ("llama", PREFIX, "last", "SEQ_CLS"),
    ("gemma", BEFORE, "last", "SEQ_CLS"),
    ("gemma3_text", BEFORE, "mean", "FEATURE_EXTRACTION"),
    ("t5", BEFORE, "mean", "TOKEN_CLS"),
    ("bart", BEFORE, "mean", "FEATURE_EXTRACTION"),
]


@pytest.mark.parametrize(("family", "prompt", "pooling", "task_type"), CASES)
def test_peft_gives_our_scores_by_the_code_in_the_readme(
    family, prompt, pooling, task_type, tiny_backbones, make_artifact, tmp_path
):
    artifact = make_artifact(tiny_backbones[family], prompt=prompt, head={"kind": "linear", "pooling": pooling})
    export = export_to_peft(artifact, tmp_path / "peft")
    assert (export.host.task_type, export.differences) == (task_type, [])
    assert_same(run_readme(tmp_path / "peft"), log_probabilities(artifact))


def test_a_pair_keeps_its_segments(tiny_bert, make_artifact, tmp_path):
    artifact = make_artifact(tiny_bert, prompt=BEFORE, task={"kind": "pair"})
    export_to_peft(artifact, tmp_path / "peft")
    ours = log_probabilities(artifact, Example(text="the bank", pair="a lost card"))
    assert_same(run_readme(tmp_path / "peft", "the bank", "a lost card"), ours)


def test_a_variational_head_is_written_as_the_linear_one_that_it_is(tiny_bert, make_artifact, tmp_path):
    artifact = make_artifact(tiny_bert, prompt=BEFORE, head={"kind": "variational", "pooling": "mask"})
    export_to_peft(artifact, tmp_path / "peft")
    assert_same(run_readme(tmp_path / "peft"), log_probabilities(artifact))


@pytest.mark.parametrize(
    ("family", "pooling", "task_type"), [("bert", "mask", "FEATURE_EXTRACTION"), ("gpt2", "last", "CAUSAL_LM")]
)
def test_label_words_are_read_off_the_model_itself(family, pooling, task_type, tiny_backbones, make_artifact, tmp_path):
    head = {"kind": "label_words", "pooling": pooling}
    artifact = make_artifact(tiny_backbones[family], prompt=BEFORE, head=head)
    assert export_to_peft(artifact, tmp_path / "peft").host.task_type == task_type
    assert_same(run_readme(tmp_path / "peft"), log_probabilities(artifact))


def test_a_prompt_behind_the_first_token_scores_differently_and_the_folder_says_so(tiny_bert, make_artifact, tmp_path):
    artifact = make_artifact(tiny_bert, prompt={**BEFORE, "template": "front"})
    export = export_to_peft(artifact, tmp_path / "peft")
    assert "prompt.template: before" in export.differences[0]
    assert export.differences[0] in (tmp_path / "peft" / "README.md").read_text()
    moved = (run_readme(tmp_path / "peft").softmax(1) - log_probabilities(artifact).exp()).abs().max()
    assert moved > 1e-3


def test_a_prefix_scores_alike_within_the_window_alone(tiny_backbones, make_artifact, tmp_path):
    head = {"kind": "linear", "pooling": "last"}
    artifact = make_artifact(tiny_backbones["qwen3"], prompt=PREFIX, head=head)
    assert "6 positions" in export_to_peft(artifact, tmp_path / "peft").differences[0]
    assert_same(run_readme(tmp_path / "peft", "bank card"), log_probabilities(artifact, "bank card"))
    moved = (run_readme(tmp_path / "peft").softmax(1) - log_probabilities(artifact).exp()).abs().max()
    assert moved > 1e-3


def build_from(folder, backbone: str, kind: str, length: int = 3) -> torch.nn.Module:
    """The prompt that a run with `prompt.start_from` starts with."""
    settings = {"kind": kind, "length": length, "start_from": str(folder)}
    objective = {"head_weight": 0, "representation_weight": 0}
    config = build_config({"backbone": {"name": backbone}, "prompt": settings, "objective": objective})
    task = Task("toy", ("bad", "good"), ("bad", "good"), ("accuracy",), "single")
    model = build_member(config, load_backbone(config.backbone), task)
    return model.prompt


def made_by_peft(backbone: str, config, folder):
    """A folder that PEFT itself has written, and its prompt."""
    torch.manual_seed(1)
    model = get_peft_model(AutoModel.from_pretrained(backbone), config)
    model.save_pretrained(folder)
    return load_file(folder / "adapter_model.safetensors")["prompt_embeddings"]


INPUT = {"task_type": "FEATURE_EXTRACTION", "num_virtual_tokens": 3}


@pytest.mark.parametrize("config", [PromptTuningConfig(**INPUT), PromptEncoderConfig(**INPUT, encoder_hidden_size=8)])
def test_input_vectors_of_peft_are_a_start_to_the_bit(config, tiny_bert, tmp_path):
    written_PE = made_by_peft(tiny_bert, config, tmp_path / "peft")
    torch.testing.assert_close(build_from(tmp_path / "peft", tiny_bert, "static").vectors(), written_PE, atol=0, rtol=0)


def test_a_prefix_of_peft_is_a_start_to_the_bit(tiny_backbones, tmp_path):
    llama = tiny_backbones["llama"]
    grouped = PrefixTuningConfig(**INPUT, token_dim=16, num_attention_heads=2, num_layers=2)
    flat_PF = made_by_peft(llama, grouped, tmp_path / "peft")
    table_N2HPK = build_from(tmp_path / "peft", llama, "prefix").table_N2HPK
    # of vector 1: layer 1, the value, head 0
    assert torch.equal(table_N2HPK[1, 1, 0, 1], flat_PF[1, 3 * 16 : 3 * 16 + 8])
    assert torch.equal(flat_prefix(table_N2HPK), flat_PF)


@pytest.mark.parametrize(("family", "prompt"), [("bert", BEFORE), ("llama", PREFIX)])
def test_there_and_back_changes_no_bit(family, prompt, tiny_backbones, make_artifact, tmp_path):
    backbone = tiny_backbones[family]
    artifact = make_artifact(backbone, prompt=prompt)
    export_to_peft(artifact, tmp_path / "ours")
    body = AutoModelForTokenClassification.from_pretrained(backbone, num_labels=3)
    PeftModel.from_pretrained(body, tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    again = build_from(tmp_path / "theirs", backbone, prompt["kind"])
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), artifact.model.prompt.parameters(), strict=True))


REFUSED = [
    ({"kind": "instance", "template": "before"}, "prompt.kind is instance"),
    ({"kind": "lpt", "template": "before"}, "prompt.kind is lpt"),
    ({"kind": "ipt", "init": "random", "template": "before"}, "prompt.kind is ipt"),
    ({"kind": "instance_layers", "template": "before"}, "prompt.kind is instance_layers"),
    ({"kind": "none"}, "prompt.kind is none"),
    ({"kind": "static", "template": "warp"}, "prompt.template is warp"),
]


@pytest.mark.parametrize(("prompt", "message"), REFUSED)
def test_what_peft_cannot_express_is_refused_by_name(prompt, message, tiny_bert, make_artifact, tmp_path):
    artifact = make_artifact(tiny_bert, prompt=prompt)
    with pytest.raises(ConfigError, match=message):
        export_to_peft(artifact, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()


def test_words_around_a_text_are_refused(tiny_bert, make_artifact, tmp_path):
    artifact = make_artifact(tiny_bert, prompt=BEFORE, data={"template": "film: {text}"})
    with pytest.raises(ConfigError, match=r"data\.template puts words around a text"):
        export_to_peft(artifact, tmp_path / "peft")


@pytest.mark.parametrize("family", ["t5", "modernbert", "albert"])
def test_a_prefix_that_peft_cannot_place_is_refused(family, tiny_backbones, make_artifact, tmp_path):
    artifact = make_artifact(tiny_backbones[family], prompt=PREFIX)
    with pytest.raises(ConfigError, match=f"family {family}"):
        export_to_peft(artifact, tmp_path / "peft")


def test_no_other_files_are_written_over(tiny_bert, make_artifact, tmp_path):
    artifact = make_artifact(tiny_bert, prompt=BEFORE)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(ArtifactError, match=r"mine\.txt"):
        export_to_peft(artifact, tmp_path / "notes")
    export_to_peft(artifact, tmp_path / "peft")
    export_to_peft(artifact, tmp_path / "peft")


def test_a_start_that_does_not_fit_is_refused_with_the_way_out(tiny_backbones, make_artifact, tmp_path):
    bert = tiny_backbones["bert"]
    export_to_peft(make_artifact(bert, prompt=BEFORE), tmp_path / "input")
    export_to_peft(make_artifact(bert, "second", prompt=PREFIX), tmp_path / "prefix")
    wrong = [
        (tmp_path / "absent", bert, "static", 3, "no adapter_config.json"),
        (tmp_path / "input", bert, "static", 4, r"prompt\.length=3"),
        (tmp_path / "input", bert, "prefix", 3, "peft_type is PROMPT_TUNING"),
        (tmp_path / "input", tiny_backbones["electra"], "static", 3, "16 wide"),
        (tmp_path / "prefix", bert, "static", 3, "peft_type is PREFIX_TUNING"),
        (tmp_path / "prefix", tiny_backbones["llama"], "prefix", 3, "num_attention_heads is 4"),
    ]
    for folder, backbone, kind, length, message in wrong:
        with pytest.raises(ConfigError, match=message):
            build_from(folder, backbone, kind, length)
    with pytest.raises(ConfigError, match=r"prompt\.start_from .* prompt\.kind is instance, .* for static and prefix"):
        build_from(tmp_path / "input", bert, "instance")


def test_pickle_is_never_read(tiny_bert, make_artifact, tmp_path):
    export_to_peft(make_artifact(tiny_bert, prompt=BEFORE), tmp_path / "peft")
    (tmp_path / "peft" / "adapter_model.safetensors").rename(tmp_path / "peft" / "adapter_model.bin")
    with pytest.raises(ConfigError, match="pickle"):
        build_from(tmp_path / "peft", tiny_bert, "static")


def test_an_artifact_no_longer_needs_the_folder_that_it_started_from(tiny_bert, make_artifact, tmp_path):
    export_to_peft(make_artifact(tiny_bert, prompt=BEFORE), tmp_path / "peft")
    started = make_artifact(tiny_bert, "second", prompt={**BEFORE, "start_from": str(tmp_path / "peft")})
    for path in (tmp_path / "peft").iterdir():
        path.unlink()
    again = Artifact.from_pretrained(tmp_path / "second")
    assert torch.equal(log_probabilities(again), log_probabilities(started))


def test_the_command_writes_the_folder_and_says_what_differs(tiny_bert, make_artifact, tmp_path, monkeypatch):
    for name in ("OMP_NUM_THREADS", "PATH"):  # the command sets them for what it starts
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    make_artifact(tiny_bert, prompt={**BEFORE, "template": "front"})
    arguments = ["export", tmp_path / "artifact", tmp_path / "peft", "--format", "peft"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "AutoModelForTokenClassification" in result.output
    assert "prompt.template: before" in result.output
    assert (tmp_path / "peft" / "adapter_model.safetensors").is_file()
