"""`infoprompt bench step` runs, and compares like with like."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer
from typer.testing import CliRunner

from infoprompt.config import ConfigError, load_config
from infoprompt.data.batch import Noise
from infoprompt.data.encoded import EncodedText
from infoprompt.objective.encoding import Latent
from infoprompt.objective.head_information import HeadInformation
from infoprompt.objective.representation_information import RepresentationInformation
from infoprompt.objective.total import standard_normal_kl
from infoprompt.presets import PRESETS
from launcher.bench import on_gpu, released, shapes
from launcher.bench.contender import Contender
from launcher.bench.flops import done_flops, useful_flops
from launcher.bench.lengths import QUANTILES, single_words, splits_of
from launcher.bench.measure import Measured, turns
from launcher.bench.ours import Training, Wanted, config_of
from launcher.bench.peft_step import PeftClassifier
from launcher.bench.plain_loop import PlainRows, padded_batch, plain_update
from launcher.bench.released import ReleasedInfoPrompt
from launcher.bench.shapes import write_shape
from launcher.bench.tables import contenders, encoded
from launcher.bench.targets import Target, cpu_targets, gpu_targets
from launcher.cli import app

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
METHODS = ("prompt tuning", "prefix tuning", "InfoPrompt")
NAMES = [
    *[f"ours: {method}" for method in METHODS],
    "ours, release preset: InfoPrompt",
    *[f"ours, padded: {method}" for method in METHODS],
    *[f"{kind}: {method}" for method in METHODS[:2] for kind in ("PEFT", "PEFT, grouped by length")],
    "released form: InfoPrompt",
]


@pytest.fixture
def wanted(tiny_bert) -> Wanted:
    return Wanted(tiny_bert, "float32", "cpu", batch_size=2, prompt_length=4)


@pytest.fixture
def splits(wanted):
    return splits_of("sst2", 4, AutoTokenizer.from_pretrained(wanted.backbone), room=40, prompt=4)


def test_every_contender_is_measured_in_every_round(tiny_bert, tmp_path):
    sizes = ["--lengths", "sst2,30", "--batch", "2", "--rounds", "2", "--steps", "2", "--prompt-length", "4"]
    files = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    done = CliRunner().invoke(
        app, ["bench", "step", "--backbone", tiny_bert, *sizes, *files, "--device", "cpu", "--targets"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["machine"]["torch"] == torch.__version__
    assert found["machine"]["commit"]
    assert [(row["lengths"], row["contender"]) for row in found["rows"]] == [
        (lengths, name) for lengths in ("sst2", "30") for name in NAMES
    ]
    for row in found["rows"]:
        assert row["problem"] is None
        assert len(row["seconds"]) == 2
        assert all(0 < host < whole for host, whole in zip(row["host_seconds"], row["seconds"], strict=True))
        assert row["examples"] == 4
        assert row["peak_bytes"] > 0
        assert 0 < row["useful_flops"] < row["done_flops"]
    # two ends beside the text, and the vectors: all that 30 positions hold
    assert [row["tokens"] for row in found["rows"][12:14]] == [4 * 26, 4 * 26]
    assert [target["met"] for target in found["targets"] if target["what"].endswith("sst2, 32")] == [None, None]
    assert done.output.count("not measured") == 7
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_bad_sizes_and_lengths_are_refused_by_name(wanted):
    done = CliRunner().invoke(app, ["bench", "step", "--batch", "8,no"])
    assert done.exit_code == 2
    assert "--batch is '8,no'" in done.output
    with pytest.raises(
        ConfigError, match="--lengths has 'sst3', but it must be one of sst2, boolq, banking77, semeval"
    ):
        splits_of("sst3", 4, None, 40, 4)
    with pytest.raises(ConfigError, match="positions above 6"):
        splits_of("6", 4, None, 40, 4)


@pytest.mark.parametrize("method", ["prompt tuning", "InfoPrompt", "InfoPrompt, release", "prefix tuning"])
def test_settings_of_a_method_are_those_of_its_recipe(wanted, method):
    recipe = {
        "prompt tuning": "prompt_tuning",
        "prefix tuning": "prefix",
        "InfoPrompt": "infoprompt_analytic",
        "InfoPrompt, release": "infoprompt_release",
    }[method]
    config = config_of(method, wanted)
    loaded = load_config(ROOT / "configs" / "recipes" / f"{recipe}.yaml", [])
    sampled = {"negatives": 4 * wanted.batch_size} if method == "InfoPrompt, release" else {}
    assert config.objective == loaded.objective.model_copy(update=sampled)
    layout = {"length": 4} | ({"template": "before"} if method == "prompt tuning" else {})
    assert config.prompt == loaded.prompt.model_copy(update=layout)
    assert config.head.kind == loaded.head.kind


def test_prompt_tuning_of_ours_and_of_peft_has_the_same_losses(wanted, splits):
    training = Training.start(config_of("prompt tuning", wanted), splits)
    theirs = PeftClassifier("prompt tuning", wanted, splits.task.num_classes, CPU)
    member = training.setup.member
    with torch.no_grad():
        theirs.model.prompt_encoder["default"].embedding.weight.copy_(member.prompt.vectors_PE)
        theirs.head.weight.copy_(member.head.linear.weight)
        theirs.head.bias.copy_(member.head.linear.bias)
    rows, _ = encoded("prompt tuning", splits, wanted)
    plain = PlainRows.of(rows.without_prompt(), 2)
    update = plain_update(theirs.loss, theirs.trained(), CPU)
    for step, chosen in enumerate([[0, 1], [2, 3], [1, 2]]):
        ours = training.update((step, [training.setup.train.rows.batch(chosen)]))
        # float32; the losses after an update show that gradients, clipping and AdamW are the same too
        assert update((padded_batch(plain, chosen, rows.pad_id),)).item() == pytest.approx(ours.item(), rel=1e-5)


def test_the_released_terms_are_those_of_the_release_preset(wanted):
    torch.manual_seed(0)
    settings = config_of("InfoPrompt, release", wanted).objective
    batch, length, vectors, width, latent = 3, 7, 4, 32, settings.latent_size
    model = ReleasedInfoPrompt(wanted, 2, CPU)
    prompt_BPE, tokens_BLE = torch.randn(batch, vectors, width), torch.randn(batch, length, width)
    real_BL = torch.arange(length) < torch.tensor([[7], [4], [2]])
    mean_BZ, unprompted_BZ, log_std_BZ = (0.5 * torch.randn(batch, latent) for _ in range(3))
    none = Noise(torch.zeros(batch), torch.zeros(batch, latent), torch.zeros(batch, settings.negatives))
    rows = [EncodedText([5] * length, [-1] * length, [0] * length, 0, False)] * batch
    padded = padded_batch(PlainRows(rows, [0] * batch, batch), range(batch), 0)

    class Given:
        noise, label_B = none, padded.label_B

    Given.real_BL = real_BL
    ours = HeadInformation(settings, width, width)(prompt_BPE, tokens_BLE, model.class_CE, Given)
    theirs = released.head_loss(prompt_BPE, model.class_CE, tokens_BLE, real_BL.long())
    # padding counts e^-100 there
    torch.testing.assert_close(ours.loss, theirs)
    information = RepresentationInformation(settings, width, 1.0, model.out)
    information.critic.project.load_state_dict(model.project.state_dict())
    ours = information(prompt_BPE, Latent(mean_BZ, log_std_BZ), Latent(unprompted_BZ, log_std_BZ), Given)
    negative_BKZ = unprompted_BZ.unsqueeze(1).expand(-1, settings.negatives, -1)
    torch.testing.assert_close(ours.loss, model.representation_loss(prompt_BPE, mean_BZ, negative_BKZ))
    torch.testing.assert_close(standard_normal_kl(Latent(mean_BZ, log_std_BZ)), released.kl(mean_BZ, log_std_BZ))
    weights = (released.HEAD_WEIGHT, released.REPRESENTATION_WEIGHT, released.KL_WEIGHT, -released.CLAMP)
    names = ("head_weight", "representation_weight", "kl_weight", "head_loss_cap")
    assert weights == tuple(PRESETS["release"][f"objective.{name}"] for name in names)


def test_the_released_step_reads_each_text_twice_and_prompts_it_with_its_own_vectors(wanted, splits):
    rows, _ = encoded("InfoPrompt, release", splits, wanted)
    model = ReleasedInfoPrompt(wanted, 2, CPU)
    lengths = []
    model.backbone.register_forward_hook(lambda module, args, out: lengths.append(out.last_hidden_state.shape[1]))
    both = [PlainRows.of(part, 2) for part in (rows, rows.without_prompt())]
    with_slots, without = (padded_batch(part, [0, 1], rows.pad_id) for part in both)
    terms = model.loss(with_slots, without)
    assert lengths == [without.ids_BL.shape[1], with_slots.ids_BL.shape[1]]
    assert lengths[1] == lengths[0] + 4
    total = terms.task + 0.1 * terms.head + 0.2 * terms.representation + 0.1 * terms.kl
    torch.testing.assert_close(terms.total, total)
    terms.task.backward()
    assert model.generator[0].weight.grad.abs().sum() > 0
    assert all(value.grad is None for value in model.backbone.parameters())


def test_drawn_rows_have_the_lengths_of_the_set(wanted):
    tokenizer = AutoTokenizer.from_pretrained(wanted.backbone)
    words = single_words(tokenizer)
    assert all(len(tokenizer(f"{word} {word}", add_special_tokens=False)["input_ids"]) == 2 for word in words)
    rows = splits_of("sst2", 400, tokenizer, room=1000, prompt=4).train
    sizes = sorted(len(row.text.split()) for row in rows)
    assert (sizes[200], sizes[360]) == (QUANTILES["sst2"][7], QUANTILES["sst2"][11])
    cut = splits_of("boolq", 8, tokenizer, room=50, prompt=4).train
    assert max(len(row.text.split()) for row in cut) == 50


def test_shipped_rows_are_even_over_the_lengths():
    found = splits_of("banking77", 3, None, 40, 4)
    sizes = sorted(len(row.text) for row in found.train)
    assert sizes[0] < sizes[1] < sizes[2]
    assert found.task.num_classes == 77


def test_grouped_rows_are_all_there_with_less_padding():
    texts = [EncodedText([7] * size, [-1] * size, [0] * size, 0, False) for size in (9, 1, 8, 2, 3, 7, 1, 9)]

    def positions(rows: PlainRows) -> int:
        batches = list(rows.of_round(3))
        assert sorted(row for batch in batches for row in batch) == list(range(8))
        return sum(padded_batch(rows, batch, 0).ids_BL.numel() for batch in batches)

    mixed, grouped = (PlainRows(texts, [0] * 8, 2, grouped=grouped) for grouped in (False, True))
    assert positions(grouped) == 2 * (1 + 3 + 8 + 9)
    assert positions(mixed) > positions(grouped)


def test_contenders_take_turns_and_one_that_fails_is_named():
    called = []

    def contender(name: str, fails: bool = False) -> Contender:
        def update(batch):
            if fails:
                raise RuntimeError("no such kernel\nand more")
            called.append(name)
            return torch.zeros(())

        return Contender(name, name, lambda number: iter([number]), update, lambda batch: 1)

    given = [contender("a"), contender("broken", fails=True), contender("b")]
    lines = turns(given, [Measured("sst2", 1, each.name, each.method) for each in given], 2, CPU)
    assert called[-4:] == ["b", "a", "a", "b"]
    assert [line.problem for line in lines] == [None, "RuntimeError: no such kernel", None]
    assert [len(line.seconds) for line in lines] == [2, 0, 2]


def test_a_backbone_that_a_contender_cannot_have_leaves_the_others(tiny_backbones, splits):
    llama = Wanted(tiny_backbones["llama"], "float32", "cpu", batch_size=2, prompt_length=4)
    found = {each.name: each for each in contenders(splits, llama, only=["ours: prompt tuning", "released"])}
    assert isinstance(found["ours: prompt tuning"], Contender)
    assert "mask token" in found["released form: InfoPrompt"].reason


def test_operations_are_those_of_the_layers(wanted, splits):
    _, backbone = encoded("prompt tuning", splits, wanted)
    length, width, inner = 10, 32, 64
    layer = 4 * width * width + 2 * width * inner
    by_hand = 2 * (4 * length * layer + 12 * length * length * width)
    assert useful_flops(backbone, [length], [length]) == by_hand
    behind_attention = width * width + 2 * width * inner
    assert useful_flops(backbone, [length], [1]) == by_hand - 4 * (length - 1) * behind_attention
    no_way_back = 2 * length * 3 * width * width
    with_prefix = 2 * (4 * length * layer + 12 * length * (length + 4) * width)
    assert useful_flops(backbone, [length], [length], prefix=4) == with_prefix - no_way_back
    left, right = torch.randn(5, 7), torch.randn(7, 3)
    assert done_flops(lambda: left @ right) == 2 * 5 * 7 * 3
    queries = torch.randn(1, 2, 5, 4)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert done_flops(lambda: attend(queries, queries, queries)) == 2 * 2 * 2 * 5 * 5 * 4


def test_a_target_is_met_missed_or_not_measured():
    seconds = {"ours": 1.0, "ours, padded": 1.7, "PEFT": 1.9}
    lines = [Measured("sst2", 8, f"{name}: prompt tuning", "prompt tuning", [value]) for name, value in seconds.items()]
    found = {target.what: target for target in cpu_targets(lines)}
    assert found["ours, padded over ours: prompt tuning, sst2, 8"].met is True
    assert found["PEFT over ours, sst2, 8"].met is False
    assert found["PEFT over ours, sst2, 32"].met is None
    assert found["PEFT over ours, sst2, 8"].shown().split() == [*"PEFT over ours, sst2, 8 >= 2.00 1.90 missed".split()]
    overhead = Target("overhead", 1.2, 1.1, at_least=False)
    assert overhead.met is False
    card = gpu_targets(lines, {"a": 0.6}, {"a": 1.4})
    assert [target.met for target in card] == [True, False, True]


def test_a_shape_of_random_weights_trains(tmp_path, splits):
    small = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    for name in ("Roberta", "Llama"):
        folder = tmp_path / name
        write_shape({"class": name, **small, "intermediate_size": 64, "max_position_embeddings": 66}, folder)
        wanted = Wanted(str(folder), "bfloat16", "cpu", batch_size=2, prompt_length=4)
        drawn = splits_of("20", 2, AutoTokenizer.from_pretrained(folder), room=40, prompt=4)
        (ours,) = contenders(drawn, wanted, only=["ours: prompt tuning"])
        (batch,) = ours.batches(0)
        assert ours.positions(batch) == 2 * 20
        assert ours.update(batch).isfinite()


def test_a_gpu_is_measured_on_both_shapes_and_the_backbone(wanted, monkeypatch):
    small = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    tiny = {"class": "Roberta", **small, "intermediate_size": 64, "max_position_embeddings": 300}
    monkeypatch.setattr(shapes, "SHAPES", dict.fromkeys(shapes.SHAPES, tiny))
    monkeypatch.setattr(on_gpu, "kernel_seconds", lambda contender: 1e-9)
    said = []
    card = replace(wanted, prompt_length=4)
    targets = on_gpu.large_shapes(card, [], rate=1e15, steps=1, rounds=1, say=said.append)
    assert [target.met for target in targets] == [False] * 5 + [None]
    assert all(0 < target.found < 0.01 for target in targets[:2])
    assert sum("32 x 256 positions" in line for line in said) == 2
    assert sum("8 x 64 positions" in line for line in said) == 3
    assert not any("not run" in line for line in said)
