"""What every test runs under: no network, no surprises from the machine. Set before anything heavy is imported."""

import json
import os
import random

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

WORDS = (
    "the a of to and in is was it for on that with as at by from be this have not are but had his they one all she "
    "film movie good bad great awful bank card money lost stolen payment transfer cause effect whole part member "
    "content container product producer entity origin message topic other engine wheel car tree forest water cup"
).split()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """No test reads states that another run has kept."""
    monkeypatch.setenv("INFOPROMPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def tiny_backbones(tmp_path_factory) -> dict[str, str]:
    """Folders of tiny models with random weights, by family."""
    return {family: _make_tiny_backbone(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture
def tiny_bert(tiny_backbones) -> str:
    """Folder of a tiny BERT with random weights."""
    return tiny_backbones["bert"]


def _make_tiny_backbone(family: str, folder) -> str:
    torch.manual_seed(0)
    tokenizer = _byte_tokenizer() if family == "roberta" else _word_tokenizer()
    FAMILIES[family](tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _word_tokenizer():
    from transformers import BertTokenizerFast

    letters = [chr(code) for code in range(33, 127)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *WORDS, *[f"##{letter}" for letter in letters]]
    return BertTokenizerFast(vocab={token: index for index, token in enumerate(dict.fromkeys(tokens))})


def _byte_tokenizer():
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizerFast

    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator([" ".join(WORDS)] * 5, vocab_size=600, special_tokens=special, show_progress=False)
    return RobertaTokenizerFast(tokenizer_object=trained._tokenizer)


def _size(tokenizer) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _bert(tokenizer):
    from transformers import BertConfig, BertModel

    config = BertConfig(**_size(tokenizer), max_position_embeddings=64, initializer_range=0.3)
    return BertModel(config, add_pooling_layer=False)


def _roberta(tokenizer):
    from transformers import RobertaConfig, RobertaModel

    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    # two positions more: RoBERTa's position ids count from padding id + 1
    config = RobertaConfig(
        **_size(tokenizer), **special, max_position_embeddings=66, type_vocab_size=1, initializer_range=0.3
    )
    return RobertaModel(config, add_pooling_layer=False)


def _electra(tokenizer):
    from transformers import ElectraConfig, ElectraModel

    config = ElectraConfig(**_size(tokenizer), embedding_size=16, max_position_embeddings=64, initializer_range=0.3)
    return ElectraModel(config)


FAMILIES = {"bert": _bert, "roberta": _roberta, "electra": _electra}


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory) -> dict[str, str]:
    """Files of a task that can be learnt: the label is whether a good word or a bad one stands in the text."""
    folder = tmp_path_factory.mktemp("toy")
    picks = random.Random(0)
    kinds = {"good": ["good", "great"], "bad": ["bad", "awful"]}
    files = {}
    for part, count in (("train", 120), ("test", 40)):
        rows = []
        for index in range(count):
            label = ("good", "bad")[index % 2]
            words = picks.choices(["the", "film", "movie", "was", "it", "and", "they", "car"], k=picks.randint(2, 8))
            words.insert(picks.randint(0, len(words)), picks.choice(kinds[label]))
            rows.append(json.dumps({"text": " ".join(words), "label": label}))
        files[part] = str(folder / f"{part}.jsonl")
        (folder / f"{part}.jsonl").write_text("\n".join(rows))
    return files


@pytest.fixture
def toy_settings(tiny_bert, toy_data, tmp_path) -> dict:
    """Nested settings of a run of a few seconds, in plain torch, not tracked."""
    return {
        "backbone": {"name": tiny_bert},
        "data": {"train": toy_data["train"], "test": toy_data["test"], "batch_size": 8},
        "optim": {"lr": 1e-2, "epochs": 4},
        "engine": {"kind": "plain"},
        "tracking": {"enabled": False, "every_steps": 1},
        "run": {"output_dir": str(tmp_path / "run")},
    }
