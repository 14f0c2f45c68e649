"""What every test runs under: no network, no surprises from the machine. Set before anything heavy is imported."""

import os

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
