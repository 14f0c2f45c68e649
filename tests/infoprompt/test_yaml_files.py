"""Values as their settings want them, and files that must not be built."""

import time
from pathlib import Path

import pytest

from infoprompt.config import ConfigError, build_config, load_config, override_config, parse_override, read_settings
from launcher.studies.settings import read_study
from launcher.sweeps.plan import load_sweep

TEXTS = ("no", "0", "010", "1e3", "2024", "2024-01-31", "null_", "~x", "1_000", "0x10", "12:30", "true", ".5", "007")


@pytest.fixture
def written(tmp_path):
    def write(text: str, name: str = "file.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.mark.parametrize("text", TEXTS)
def test_a_setting_that_is_a_text_gets_the_text_as_it_stands(text, written):
    file = written(
        f"run: {{name: {text}}}\nprompt: {{text: {text}}}\n"
        f"data:\n  label_texts: {{{text}: {text}}}\n  columns: {{label: {text}}}\n"
    )
    overrides = [f"run.name={text}", f"prompt.text={text}", f"data.label_texts={{{text}: {text}}}"]
    for config in (load_config(file), override_config(build_config({}), overrides)):
        assert (config.run.name, config.prompt.text, config.data.label_texts) == (text, text, {text: text})
    assert load_config(file).data.columns == {"label": text}


@pytest.mark.parametrize("text", ["runs/other #2", "#3", "a: b", "[x", "*star", "it's", "'", "50 %", "x: [y", "- a"])
def test_an_override_of_a_text_is_taken_as_typed(text):
    assert override_config(build_config({}), [f"run.name={text}"]).run.name == text
    assert override_config(build_config({}), [f"data.label_texts.no={text}"]).data.label_texts == {"no": text}


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("run.name='2024'", "2024"),
        ('run.name="a #2"', "a #2"),
        ("run.name=null", None),
        ("run.name=", None),
        ("seed=010", 10),
        ("optim.lr=1e-3", 1e-3),
        ("optim.epochs=1e2", 100),
        ("optim.lr=.5", 0.5),
        ("data.test=no", "no"),
        ("tracking.enabled=no", False),
        ("engine.zero_stage=2", 2),
        ("optim.betas=[0.8, 0.99]", (0.8, 0.99)),
        ("data.columns={text: no, label: 0}", {"text": "no", "label": "0"}),
        ("search={optim.lr: [1e-3], prompt.text: [no, 1]}", {"optim.lr": [1e-3], "prompt.text": ["no", "1"]}),
        ("search.prompt.text=[yes]", {"prompt.text": ["yes"]}),
    ],
)  # fmt: skip
def test_a_value_is_read_by_the_type_of_its_setting(override, value):
    key, _, _ = override.partition("=")
    config = override_config(build_config({}), [override])
    for part in key.split(".")[: 1 if key.startswith("search") else None]:
        config = getattr(config, part)
    assert config == value
    assert type(config) is type(value)


def test_where_a_setting_may_be_anything_the_form_of_a_value_decides():
    values = parse_override("prompt.options={a: 010, b: no, c: 1e3, d: true}")
    assert values == {"prompt": {"options": {"a": 10, "b": "no", "c": 1e3, "d": True}}}
    assert [type(value) for value in values["prompt"]["options"].values()] == [int, str, float, bool]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=inf", "optim.lr is 'inf', but must be a finite number. Change it in the file or by optim.lr=VALUE"),
        ("optim.lr=nan", "optim.lr is 'nan', but must be a finite number"),
        ("optim.lr=1e400", "optim.lr is '1e400', but must be a finite number"),
        ("optim.eps=.inf", "optim.eps is inf, but must be a finite number"),
        ("optim.betas=[2, -1]", "optim.betas.0 is 2, but must be less than 1"),
        ("optim.betas=[0.9]", "optim.betas.1 is missing"),
        (f"optim.epochs={10**30}", "optim.epochs is 1000000000000000000000000000000, but must be less than 2147483648"),
        (f"seed={'9' * 5000}", "characters), but must be a whole number below 2147483648"),
        ("seed=0x10", "seed is '0x10', but must be a valid integer"),
        ("seed=1.5", "seed is 1.5, but must be a valid integer"),
        ("data.seed=99999999999", "data.seed is 99999999999, but must be less than"),
        ("run.output_dir=a\0b", "run.output_dir: 'a\\x00b' holds a null character"),
        ("run.name=\udcff", "holds what is no character in UTF-8"),
        ("data.columns={a: \udcff}", "holds what is no character in UTF-8"),
        ("data.columns=[", "data.columns is '[', which is not valid YAML. Quote it, or close its brackets"),
        ("data.columns={a: 1, a: 2}", "data.columns: a is given twice"),
        ("prompt.options={[1]: 2}", "a key must be a text"),
        ("optim..lr=1", "not of the form"),
        (".=1", "not of the form"),
        (f"{'a.' * 2000}b=1", "at most 32 levels"),
        ("prompt.options={a: !!python/name:os.system x}", "has the tag"),
    ],
)
def test_what_cannot_be_a_value_is_refused_with_the_way_out(override, message):
    with pytest.raises(ConfigError) as caught:
        override_config(build_config({}), [override])
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000


NESTED = "&a [*a]"
DEEP = "[" * 3000 + "]" * 3000
LEVELS = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 8))
BOMB = f"a0: &a0 [1]\n{LEVELS}\n"
MERGES = "".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}\n" for i in range(1, 8))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"prompt: {{options: {{x: {NESTED}}}}}", "refers to itself by an alias"),
        ("prompt: &p {options: {x: *p}}", "refers to itself by an alias"),
        ("prompt: &p {<<: *p}", "merges .* into itself"),
        (f"run: {DEEP}", "line 1 nests more than 32 levels deep"),
        ("x: " + "{a: " * 400 + "1" + "}" * 400, "nests more than 32 levels deep"),
        (BOMB, "more than 100000 values once its aliases"),
        (f"m0: &m0 {{x: 1}}\n{MERGES}", "more than 100000 values"),
        ("# " + "x" * 2**20, "is larger than 1048576 bytes"),
        ("optim: {lr: 1}\noptim: {epochs: 3}", "optim is given twice, the second time in line 2. Remove one"),
        ("optim: {lr: 1, lr: 2}", "lr is given twice"),
        ("base: [1, 2]", r"base is \[.*\], but must be the path of one file"),
        ("base: no such file", "There is no config file .*no such file"),
        ("base: " + "x" * 5000, "There is no config file"),
        ("a: 1\n---\nb: 2", "is not valid YAML"),
        ('run: {output_dir: "a\\0b"}', "holds a null character"),
    ],
)
def test_a_file_that_must_not_be_built_is_refused_at_once(text, message, written):
    file = written(text)
    begin = time.monotonic()
    readers = [load_config, read_study, load_sweep] if "base" not in text else [load_config]
    for read in readers:
        with pytest.raises(ConfigError, match=message):
            read(file)
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("value", [NESTED, DEEP, "{a: " * 40 + "1" + "}" * 40])
def test_an_override_that_must_not_be_built_is_refused_for_every_command(value, written):
    with pytest.raises(ConfigError):
        parse_override(f"prompt.options={value}")
    sweep = written("base: b.yaml\nspace: {seed: {grid: [0]}}\n", "sweep.yaml")
    for read, key in ((load_sweep, "space"), (read_study, "methods")):
        with pytest.raises(ConfigError):
            read(sweep, [f"{key}={value}"])


def test_a_long_chain_of_bases_is_refused(written, tmp_path):
    for number in range(40):
        written(f"base: {number + 1}.yaml\n", f"{number}.yaml")
    with pytest.raises(ConfigError, match="more than 32 files below it by `base`"):
        load_config(tmp_path / "0.yaml")


def test_merged_mappings_give_way_to_the_keys_beside_them(written):
    file = written("optim: &o {lr: 0.5, epochs: 4}\n", "base.yaml")
    file = written("x: &o {lr: 0.5, epochs: 4}\noptim: {<<: *o, lr: 0.25}\n")
    assert read_settings(file)["optim"] == {"lr": 0.25, "epochs": 4}


def test_empty_files_and_bytes_before_the_text_are_no_trouble(written, tmp_path):
    assert read_settings(written("")) == read_settings(written("# nothing\n")) == {}
    (tmp_path / "marked.yaml").write_bytes(b"\xef\xbb\xbfseed: 3\n")
    assert read_settings(tmp_path / "marked.yaml") == {"seed": 3}
    (tmp_path / "latin.yaml").write_bytes("run: {name: caf\xe9}\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not valid YAML"):
        read_settings(tmp_path / "latin.yaml")


def test_the_values_that_a_sweep_varies_are_of_the_settings_type(written):
    written("data: {train: rows.jsonl}\n", "base.yaml")
    space = "{prompt.text: {grid: [no, 010]}, optim.lr: {choice: [1e-3, 1e-2], when: {prompt.text: no}}}"
    sweep = load_sweep(written(f"base: base.yaml\nspace: {space}\n"))
    assert [point["prompt.text"] for point in sweep.points] == ["no", "010"]
    assert sweep.points[0]["optim.lr"] in (1e-3, 1e-2)
    assert sweep.config(sweep.points[1]).prompt.text == "010"
