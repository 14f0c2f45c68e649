"""What every test runs under: no network, no surprises from the machine. Set before anything heavy is imported."""

import gc
import json
import os
import random

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
import torch
from isolation import put_back
from preloaded import preloaded

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # Without a GPU Triton interprets kernels; that is settled when it is first imported, which DeepSpeed may do.
    os.environ.setdefault("TRITON_INTERPRET", "1")
else:
    # what torch's deterministic mode asks of cuBLAS; read when it is first used
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

WORDS = (
    "the a of to and in is was it for on that with as at by from be this have not are but had his they one all she "
    "film movie good bad great awful bank card money lost stolen payment transfer cause effect whole part member "
    "content container product producer entity origin message topic other engine wheel car tree forest water cup"
).split()


def pytest_addoption(parser):
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run files, and the tests in each, in random order")


@pytest.hookimpl(trylast=True)  # behind pytest's own sorting by fixtures
def pytest_collection_modifyitems(config, items):
    files: dict[object, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    in_order = [*files.values()]
    seed = config.getoption("--shuffle")
    if seed is None:
        # the longest files first, so that of two processes none is left with one at the end
        in_order.sort(key=lambda tests: -sum(_weight(test) for test in tests))
    else:
        picks = random.Random(seed)
        picks.shuffle(in_order)
        for tests in in_order:
            picks.shuffle(tests)
    items[:] = [item for tests in in_order for item in tests]


def pytest_unconfigure():
    gc.unfreeze()  # else libraries say at the end that they leak


def _weight(test: pytest.Item) -> int:
    """About how many seconds a test takes beyond the ordinary."""
    seconds = {"ray": 60, "slow": 30, "distributed": 20}
    ordinary = 2 if {"training", "golden"} & {*test.path.parts} else 0  # each trains
    return max((seconds[mark.name] for mark in test.iter_markers() if mark.name in seconds), default=ordinary)


@pytest.fixture(scope="module", autouse=True)
def _module_leaves_nothing():
    """What fixtures of a whole file change is put back after the file."""
    # every collection, such as the one before each run, would pass all modules that are loaded
    gc.collect()
    gc.freeze()
    with put_back():
        yield


@pytest.fixture(autouse=True)
def _test_leaves_nothing(_module_leaves_nothing):
    """What a test changes is put back after it."""
    with put_back():
        yield


@pytest.fixture(autouse=True)
def _own_cache(_test_leaves_nothing, tmp_path_factory, monkeypatch):
    """No test reads states that another run has kept."""
    monkeypatch.setenv("INFOPROMPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def processes():
    """Forks Python processes that have torch and the packages imported."""
    with preloaded({**os.environ, "OMP_NUM_THREADS": "1"}) as forking:
        yield forking


@pytest.fixture(scope="session")
def tiny_backbones(tmp_path_factory) -> dict[str, str]:
    """Folders of tiny models with random weights and a language-model head, by family, each made when asked for."""

    class Folders(dict[str, str]):
        def __missing__(self, family: str) -> str:
            self[family] = _make_tiny_backbone(family, tmp_path_factory.mktemp(family))
            return self[family]

    return Folders()


@pytest.fixture
def tiny_bert(tiny_backbones) -> str:
    """Folder of a tiny BERT with random weights."""
    return tiny_backbones["bert"]


def _make_tiny_backbone(family: str, folder) -> str:
    torch.manual_seed(0)
    tokenizer, model = FAMILIES[family]()
    model.save_pretrained(folder)
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


def _plain_tokenizer(**special):
    """Words and letters as in `_word_tokenizer`, with other special tokens, and none around a text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(33, 127)]
    tokens = [*special.values(), *letters, *WORDS, *[f"##{letter}" for letter in letters]]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    fast = Tokenizer(models.WordPiece(vocabulary, unk_token=special["unk_token"]))
    fast.normalizer = normalizers.BertNormalizer()
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=fast, **special)


def _ends(tokenizer) -> dict[str, int | None]:
    return {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}


def _size(tokenizer) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
    }


def _encoder(name: str, **changes):
    """A BERT-like model, `name` as transformers' classes are called."""

    def build():
        import transformers

        tokenizer = _word_tokenizer()
        config = getattr(transformers, f"{name}Config")(**{**_size(tokenizer), **changes})
        return tokenizer, getattr(transformers, f"{name}ForMaskedLM")(config)

    return build


def _roberta(name: str):
    def build():
        import transformers

        tokenizer = _byte_tokenizer()
        # two positions more: RoBERTa's position ids count from padding id + 1
        changes = {"max_position_embeddings": 66, "type_vocab_size": 1, **_ends(tokenizer)}
        config = getattr(transformers, f"{name}Config")(**{**_size(tokenizer), **changes})
        return tokenizer, getattr(transformers, f"{name}ForMaskedLM")(config)

    return build


def _modernbert():
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    tokenizer = _word_tokenizer()
    ends = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    size = {**_size(tokenizer), "num_hidden_layers": 3, "local_attention": 6}
    return tokenizer, ModernBertForMaskedLM(ModernBertConfig(**size, **ends, global_attn_every_n_layers=2))


def _decoder(name: str, **changes):
    """A Llama-like model with grouped keys; its tokenizer has no padding token."""

    def build():
        import transformers

        tokenizer = _plain_tokenizer(unk_token="<unk>", bos_token="<s>", eos_token="</s>")
        size = {**_size(tokenizer), "num_key_value_heads": 2, "head_dim": 8, **_ends(tokenizer), **changes}
        config = getattr(transformers, f"{name}Config")(**size)
        return tokenizer, getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")(config)

    return build


def _gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = _plain_tokenizer(unk_token="<|endoftext|>", bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    size = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
    return tokenizer, GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **size, **_ends(tokenizer)))


def _t5():
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = _plain_tokenizer(pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    size = {"d_model": 32, "d_kv": 6, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4}
    config = T5Config(
        vocab_size=len(tokenizer), **size, n_positions=64, decoder_start_token_id=0, initializer_factor=2.0
    )
    return tokenizer, T5ForConditionalGeneration(config)


def _bart():
    from transformers import BartConfig, BartForConditionalGeneration

    tokenizer = _byte_tokenizer()
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    size = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "max_position_embeddings": 64, "init_std": 0.3}
    ends = {"pad_token_id": 1, "decoder_start_token_id": 2, "forced_eos_token_id": None, "scale_embedding": True}
    return tokenizer, BartForConditionalGeneration(
        BartConfig(vocab_size=len(tokenizer), **heads, **size, **_ends(tokenizer), **ends)
    )


_SOME_WINDOWS = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES = {
    "bert": _encoder("Bert"),
    "roberta": _roberta("Roberta"),
    "xlm-roberta": _roberta("XLMRoberta"),
    "camembert": _roberta("Camembert"),
    "electra": _encoder("Electra", embedding_size=16),
    "albert": _encoder("Albert", embedding_size=16),
    "deberta-v2": _encoder(
        "DebertaV2",
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        type_vocab_size=0,
    ),
    "modernbert": _modernbert,
    "gpt2": _gpt2,
    "llama": _decoder("Llama"),
    "qwen2": _decoder("Qwen2", use_sliding_window=True, **_SOME_WINDOWS),
    "qwen3": _decoder("Qwen3", use_sliding_window=True, **_SOME_WINDOWS),
    "mistral": _decoder("Mistral", sliding_window=6),
    "gemma": _decoder("Gemma"),
    "gemma2": _decoder("Gemma2", **_SOME_WINDOWS, query_pre_attn_scalar=8),
    "gemma3_text": _decoder("Gemma3Text", **_SOME_WINDOWS, query_pre_attn_scalar=8),
    "t5": _t5,
    "bart": _bart,
}


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
    texts = [
        " ".join(picks.choices(["the", "film", "movie", "was", "it", *kinds["good"], *kinds["bad"]], k=6))
        for _ in range(400)
    ]
    files["unlabelled"] = str(folder / "unlabelled.txt")
    (folder / "unlabelled.txt").write_text("\n".join(texts))
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
