"""What golden runs train on: tiny models with random weights and a task that can be learnt.

Apart from the fixtures of the suite, so that these stay as they are whatever becomes of those.
"""

import json
import random
from pathlib import Path

WORDS = "the a film movie was it and they car good great bad awful cause effect of whole part".split()
LABELS = {"good": ("good", "great"), "bad": ("bad", "awful")}


def make_model(family: str, folder: Path) -> str:
    """A model of two layers in `folder`: `bert` with a masked-word head, `llama` with grouped keys."""
    import torch

    torch.manual_seed(0)
    tokenizer, model = {"bert": _bert, "llama": _llama}[family]()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_data(folder: Path) -> dict[str, str]:
    """Files of 48 training and 24 test rows; the label is whether a good word or a bad one stands in the text."""
    picks = random.Random(0)
    files = {}
    for part, count in (("train", 48), ("test", 24)):
        rows = []
        for index in range(count):
            label = ("good", "bad")[index % 2]
            words = picks.choices(["the", "film", "movie", "was", "it", "and", "they", "car"], k=picks.randint(2, 8))
            words.insert(picks.randint(0, len(words)), picks.choice(LABELS[label]))
            rows.append(json.dumps({"text": " ".join(words), "label": label}))
        files[part] = str(folder / f"{part}.jsonl")
        Path(files[part]).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return files


def _vocabulary(special: list[str]) -> dict[str, int]:
    letters = [chr(code) for code in range(97, 123)]
    tokens = [*special, *WORDS, *letters, *[f"##{letter}" for letter in letters]]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


_SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_SIZE = {**_SIZE, "max_position_embeddings": 64, "initializer_range": 0.3}


def _bert():
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    tokenizer = BertTokenizerFast(vocab=_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    return tokenizer, BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), pad_token_id=0, **_SIZE))


def _llama():
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    fast = Tokenizer(models.WordPiece(_vocabulary(list(special.values())), unk_token="<unk>"))
    fast.normalizer = normalizers.BertNormalizer()
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, **special)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "num_key_value_heads": 2, "head_dim": 8}
    return tokenizer, LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **_SIZE, **ends))
