"""The files in cluster/ are what the tools that read them take."""

import fnmatch
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
SCHEMAS = Path(__file__).with_name("cluster_schemas")
SLURM_SCRIPTS = ["slurm_sweep.sh", "slurm_train.sh"]


def tool(name: str) -> str:
    """Path of a program, looked for beside this Python too; skips the test where it is not installed."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def pinned(package: str) -> str:
    """Version in constraints.txt."""
    (version,) = re.findall(rf"(?m)^{package}==(.+)$", (ROOT / "constraints.txt").read_text())
    return version


def complaints(value: Any, schema: dict[str, Any]) -> list[str]:
    """What a JSON Schema has against a value, the place first."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema comes with ray, which is not installed")
    return [
        f"{error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(value)
    ]


def misspelt(value: Any, name: str) -> Any:
    """The same with one letter of a key doubled, wherever it stands."""
    if isinstance(value, dict):
        return {key + key[-1] if key == name else key: misspelt(below, name) for key, below in value.items()}
    return [misspelt(below, name) for below in value] if isinstance(value, list) else value


def test_deepspeed_reads_the_host_file():
    from deepspeed.launcher.runner import fetch_hostfile

    assert dict(fetch_hostfile(str(CLUSTER / "hostfile"))) == {"node1": 8, "node2": 8}


class TestRayLauncher:
    FILES = ("ray_onpremise.yaml", "ray_aws.yaml")

    @staticmethod
    def prepared(config: dict[str, Any]) -> dict[str, Any]:
        """What `ray up` makes of a file, by its own code; raises what `ray up` would."""
        pytest.importorskip("ray", reason="ray is not installed")
        from ray.autoscaler._private.util import prepare_config, validate_config

        prepared: dict[str, Any] = prepare_config(config)
        validate_config(prepared)
        return prepared

    @pytest.mark.parametrize(("name", "fewest"), [("ray_onpremise.yaml", 2), ("ray_aws.yaml", 0)])
    def test_ray_takes_the_file(self, name, fewest):
        config = yaml.safe_load((CLUSTER / name).read_text())
        prepared = self.prepared(config)
        assert prepared["head_start_ray_commands"] == config["head_start_ray_commands"]
        workers = [kind for key, kind in prepared["available_node_types"].items() if kind["max_workers"]]
        assert [kind["min_workers"] for kind in workers] == [fewest]

    @pytest.mark.parametrize(
        ("name", "key"),
        [("ray_onpremise.yaml", "file_mounts"), ("ray_aws.yaml", "min_workers"), ("ray_aws.yaml", "run_options")],
    )
    def test_ray_refuses_a_misspelt_key(self, name, key):
        with pytest.raises(Exception, match=re.escape(f"'{key}{key[-1]}' was unexpected")):
            self.prepared(misspelt(yaml.safe_load((CLUSTER / name).read_text()), key))

    @pytest.mark.parametrize("name", FILES)
    def test_nodes_ask_for_the_token_that_they_are_given(self, name):
        config = yaml.safe_load((CLUSTER / name).read_text())
        assert list(config["file_mounts"].values()) == ["~/.ray/auth_token"]
        if "docker" in config:
            assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
        else:
            starts = [config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]]
            assert all(re.search(r"export .*RAY_AUTH_MODE=token .*ray start", start) for start in starts)


class TestKubernetes:
    FILES = ("kuberay_shared.yaml", "kuberay_cluster.yaml", "kuberay_job.yaml", "kubernetes_mlflow.yaml")

    @staticmethod
    def complaints(document: dict[str, Any]) -> list[str]:
        known = yaml.safe_load((SCHEMAS / "kubernetes.yaml").read_text())
        return complaints(document, {**known, "$ref": f"#/$defs/{document['kind']}"})

    @pytest.mark.parametrize("name", FILES)
    def test_every_field_is_known(self, name):
        for document in yaml.safe_load_all((CLUSTER / name).read_text()):
            assert self.complaints(document) == []

    @pytest.mark.parametrize(
        "key",
        [
            "preRunningDeadlineSeconds",
            "authOptions",
            "rayStartParams",
            "minReplicas",
            "shareProcessNamespace",
            "fsGroup",
            "envFrom",
            "claimName",
            "sizeLimit",
            "mountPath",
            "limits",
        ],
    )
    def test_a_misspelt_field_is_found(self, key):
        document = yaml.safe_load((CLUSTER / "kuberay_job.yaml").read_text())
        assert any(f"'{key}{key[-1]}'" in complaint for complaint in self.complaints(misspelt(document, key)))

    def test_a_wrong_type_is_found(self):
        document = yaml.safe_load((CLUSTER / "kuberay_job.yaml").read_text())
        document["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
        assert [complaint for complaint in self.complaints(document) if "0 is not of type 'string'" in complaint]

    def test_job_and_cluster_are_the_same_nodes(self):
        job, cluster = (yaml.safe_load((CLUSTER / f"kuberay_{name}.yaml").read_text()) for name in ("job", "cluster"))
        assert job["spec"]["rayClusterSpec"] == cluster["spec"]
        assert cluster["spec"]["rayVersion"] == pinned("ray")

    def test_every_pod_has_the_shared_folder_where_the_variable_says(self):
        claim, variables = yaml.safe_load_all((CLUSTER / "kuberay_shared.yaml").read_text())
        spec = yaml.safe_load((CLUSTER / "kuberay_cluster.yaml").read_text())["spec"]
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            pod = group["template"]["spec"]
            (container,) = pod["containers"]
            (volume,) = (one["name"] for one in pod["volumes"] if "persistentVolumeClaim" in one)
            (mount,) = (one["mountPath"] for one in container["volumeMounts"] if one["name"] == volume)
            assert mount == variables["data"]["INFOPROMPT_HOME"]
            assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
            assert container["envFrom"][0]["configMapRef"]["name"] == variables["metadata"]["name"]


SRUN = """#!/bin/bash
# Runs the command on each node of the job in turn, as that node, and exits with the highest code.
echo "srun $*" >>"$LOG"
nodes=$SLURM_NNODES
while [[ $1 == --* ]]; do [[ $1 == --nodes=1 ]] && nodes=1; shift; done
if [[ $1 == bash && -n ${HANG:-} && $3 == exec* ]]; then
    trap 'echo "${RUN_CODE:-}" >"${INFOPROMPT_CODE_FILE}"; exit 1' TERM
    echo hanging >>"$LOG"
    sleep 60 >/dev/null 2>&1 &
    wait
fi
highest=0
for ((node = nodes - 1; node >= 0; node--)); do
    SLURM_NODEID=$node SLURM_CPUS_ON_NODE=16 "$@"
    code=$?
    ((code > highest)) && highest=$code
done
exit $highest
"""
RAY = """#!/bin/bash
# As `ray symmetric-run`: the command runs on the first node alone; where Ray cannot start, it exits 0 without it.
echo "ray $SLURM_NODEID $*" >>"$LOG"
echo "token $RAY_AUTH_MODE $(stat -c %a "$RAY_AUTH_TOKEN_PATH") $(wc -c <"$RAY_AUTH_TOKEN_PATH")" >>"$LOG"
[[ $SLURM_NODEID != 0 || -n ${RAY_BROKEN:-} ]] && exit 0
while [[ $1 != -- ]]; do shift; done
shift
exec "$@"
"""
COMMAND = """#!/bin/bash
echo "$(basename "$0") $* at ${RAY_ADDRESS:-no Ray} tracked at $MLFLOW_TRACKING_URI" >>"$LOG"
exit ${CODE:-0}
"""
STUBS = {
    "srun": SRUN,
    "ray": RAY,
    "python": COMMAND,
    "torchrun": COMMAND,
    "scontrol": '#!/bin/bash\necho "scontrol $*" >>"$LOG"\n[[ $1 == show ]] && printf "node0\\nnode1\\n"\n',
    "hostname": '#!/bin/bash\n[[ ${1:-} == -I ]] && echo "10.1.2.3 172.17.0.1" || echo "node$SLURM_NODEID"\n',
    "nvidia-smi": '#!/bin/bash\nfor ((gpu = 0; gpu < ${DRIVER_GPUS:-4}; gpu++)); do echo "GPU $gpu"; done\n',
}


class TestSlurm:
    JOB = 1234242
    HEAD = "10.1.2.3:24242"

    @pytest.fixture
    def job(self, tmp_path) -> Callable[..., subprocess.Popen[str]]:
        """Starts a script as a job of two nodes with four GPUs each, where Slurm, Ray and the commands are stubs."""
        programs = tmp_path / "bin"
        programs.mkdir()
        for name, text in STUBS.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        (tmp_path / "project").mkdir()
        (tmp_path / "project" / "cluster").symlink_to(CLUSTER)
        self.log, self.home = tmp_path / "log", tmp_path / "home"
        self.log.touch()

        def start(script: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
            environment = {
                "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
                "LOG": str(self.log),
                "INFOPROMPT_HOME": str(self.home),
                "MLFLOW_TRACKING_URI": "http://mlflow:5000",
                "SLURM_SUBMIT_DIR": str(tmp_path / "project"),
                "SLURM_JOB_ID": str(self.JOB),
                "SLURM_JOB_NODELIST": "node[0-1]",
                "SLURM_NNODES": "2",
                "SLURM_GPUS_PER_NODE": "h100:4",
                "SLURM_GPUS_ON_NODE": "4",
                **variables,
            }
            return subprocess.Popen(
                ["bash", str(CLUSTER / script), *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

        return start

    def ended(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        """Exit code, output, and what was started."""
        output, _ = process.communicate(timeout=30)
        recorded = self.home / "slurm" / str(self.JOB) / "exit_code"
        assert int(recorded.read_text()) == process.returncode
        assert not recorded.with_name("token").exists()
        return process.returncode, output, self.log.read_text()

    @pytest.mark.parametrize("script", [*SLURM_SCRIPTS, "slurm_job.sh"])
    def test_bash_reads_it(self, script):
        subprocess.run(["bash", "-n", str(CLUSTER / script)], check=True)

    def test_shellcheck_has_nothing_to_say(self):
        check = [tool("shellcheck"), "--external-sources", *(f"cluster/{script}" for script in SLURM_SCRIPTS)]
        found = subprocess.run([*check, "cluster/slurm_job.sh"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert found.stdout == ""

    def test_a_sweep_starts_one_ray_over_all_nodes_and_runs_on_the_first(self, job):
        process = job("slurm_sweep.sh", "configs/sweeps/quickstart.yaml", "num_samples=2")
        code, output, log = self.ended(process)
        assert code == 0, output
        for node in (0, 1):
            assert (
                f"ray {node} symmetric-run --num-cpus=16 --address {self.HEAD} --min-nodes 2 --num-gpus=4 "
                "--disable-usage-stats -- "
            ) in log
        assert log.count("token token 600 64\n") == 2
        assert (
            f"python launcher/sweep.py configs/sweeps/quickstart.yaml output_dir={self.home}/sweeps/quickstart "
            f"num_samples=2 at {self.HEAD} tracked at http://mlflow:5000\n"
        ) in log

    def test_the_code_of_a_sweep_is_the_jobs(self, job):
        code, _, _ = self.ended(job("slurm_sweep.sh", "configs/sweeps/quickstart.yaml", CODE="7"))
        assert code == 7

    def test_a_ray_that_did_not_start_fails_the_job(self, job):
        code, output, log = self.ended(job("slurm_sweep.sh", "configs/sweeps/quickstart.yaml", RAY_BROKEN="1"))
        assert code == 1
        assert "The sweep never ran" in output
        assert "\npython" not in log

    @pytest.mark.parametrize("script", SLURM_SCRIPTS)
    @pytest.mark.parametrize(
        ("variables", "said"),
        [
            ({"SLURM_GPUS_ON_NODE": "2"}, "--gpus-per-node is 4, but Slurm gave node1 2 GPUs"),
            ({"SLURM_GPUS_PER_NODE": ""}, "--gpus-per-node is 0, but Slurm gave node1 4 GPUs"),
            ({"DRIVER_GPUS": "3"}, "its driver finds 3. Leave the node out by --exclude=node1"),
            ({"SLURM_NNODES": "3"}, "MLFLOW_TRACKING_URI is not set, and 3 nodes cannot share a database file"),
        ],
    )
    def test_what_cannot_work_is_refused_before_anything_starts(self, job, script, variables, said):
        unset = {"MLFLOW_TRACKING_URI": ""} if "SLURM_NNODES" in variables else {}
        code, output, log = self.ended(job(script, "configs/quickstart.yaml", **variables, **unset))
        assert code == 2
        assert said in output
        assert "launcher" not in log

    def told(self, job, script: str, number: int, **variables: str) -> tuple[int, str, str]:
        """How a job ends that is told to, in the middle of its step."""
        process = job(script, "configs/quickstart.yaml", HANG="1", **variables)
        deadline = time.monotonic() + 20
        while "hanging" not in self.log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        return self.ended(process)

    @pytest.mark.parametrize("script", SLURM_SCRIPTS)
    def test_scancel_ends_the_step_and_the_job_does_not_come_back(self, job, script):
        code, output, log = self.told(job, script, signal.SIGTERM, RUN_CODE="75")
        assert code == 143
        assert "SIGTERM: ending the step" in output
        assert "scontrol requeue" not in log

    @pytest.mark.parametrize("script", SLURM_SCRIPTS)
    def test_the_notice_before_its_time_is_over_requeues_the_job(self, job, script):
        code, _, log = self.told(job, script, signal.SIGUSR1, RUN_CODE="75")
        assert code == 75
        assert f"scontrol requeue {self.JOB}\n" in log

    def test_a_run_that_was_told_otherwise_and_has_saved_its_state_is_requeued_too(self, job):
        torchrun = '#!/bin/bash\necho 75 >"$INFOPROMPT_CODE_FILE"\nexit 1\n'
        (self.log.parent / "bin" / "torchrun").write_text(torchrun)
        code, _, log = self.ended(job("slurm_train.sh", "configs/quickstart.yaml"))
        assert code == 75
        assert f"scontrol requeue {self.JOB}\n" in log

    def test_a_sweep_that_slurm_starts_again_resumes(self, job):
        start = ("slurm_sweep.sh", "configs/sweeps/quickstart.yaml")
        assert "--resume" not in self.ended(job(*start))[2]
        assert "--resume at" in self.ended(job(*start, SLURM_RESTART_COUNT="1"))[2]
        assert "--resume --resume" not in self.ended(job(*start, "--resume", SLURM_RESTART_COUNT="1"))[2]

    def test_a_run_that_slurm_starts_again_resumes(self, job):
        start = ("slurm_train.sh", "configs/quickstart.yaml")
        assert "--resume" not in self.ended(job(*start))[2]
        assert f"runs/quickstart-{self.JOB} --resume auto at" in self.ended(job(*start, SLURM_RESTART_COUNT="1"))[2]
        self.log.write_text("")
        assert "--resume auto" not in self.ended(job(*start, "--resume=never", SLURM_RESTART_COUNT="1"))[2]

    def test_a_run_starts_torchrun_on_each_node(self, job):
        code, output, log = self.ended(job("slurm_train.sh", "configs/quickstart.yaml", "optim.lr=1e-3"))
        assert code == 0, output
        for node in (0, 1):
            assert (
                f"torchrun --node-rank={node} --nnodes=2 --nproc-per-node=4 --master-addr=10.1.2.3 --master-port=24242 "
                f"launcher/train.py configs/quickstart.yaml run.output_dir={self.home}/runs/quickstart-{self.JOB} "
                "optim.lr=1e-3 at"
            ) in log

    def test_a_run_that_fails_on_one_node_fails_the_job(self, job):
        no_gpus = {"SLURM_GPUS_PER_NODE": "", "SLURM_GPUS_ON_NODE": "", "RANKS_PER_NODE": "3"}
        code, _, log = self.ended(job("slurm_train.sh", "configs/quickstart.yaml", CODE="5", **no_gpus))
        assert code == 5
        assert "--nproc-per-node=3" in log


class TestMlflowServer:
    @staticmethod
    def compose() -> dict[str, Any]:
        return yaml.safe_load((CLUSTER / "mlflow" / "compose.yaml").read_text())

    @staticmethod
    def example() -> dict[str, str]:
        lines = (CLUSTER / "mlflow" / ".env.example").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

    def test_every_field_is_known(self):
        schema = yaml.safe_load((SCHEMAS / "compose.yaml").read_text())
        assert complaints(self.compose(), schema) == []

    @pytest.mark.parametrize("key", ["services", "healthcheck", "condition", "start_period", "ports", "restart"])
    def test_a_misspelt_field_is_found(self, key):
        schema = yaml.safe_load((SCHEMAS / "compose.yaml").read_text())
        assert complaints(misspelt(self.compose(), key), schema)

    def test_docker_takes_the_file(self, tmp_path):
        docker = tool("docker")
        if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
            pytest.skip("docker has no compose plugin")
        values = tmp_path / "env"
        filled = {**self.example(), "POSTGRES_PASSWORD": "a", "S3_SECRET_KEY": "b"}
        values.write_text("".join(f"{name}={value}\n" for name, value in filled.items()))
        file = str(CLUSTER / "mlflow" / "compose.yaml")
        command = [docker, "compose", "--env-file", str(values), "--file", file, "config", "--quiet"]
        subprocess.run(command, check=True)

    def test_secrets_are_asked_for_and_in_no_file(self):
        text = (CLUSTER / "mlflow" / "compose.yaml").read_text()
        variables = dict(re.findall(r"\$\{(\w+)(:[?-])?", text))
        assert set(variables) == set(self.example())
        for secret in ("POSTGRES_PASSWORD", "S3_SECRET_KEY"):
            assert variables[secret] == ":?"
            assert self.example()[secret] == ""
        assert ".env" in (CLUSTER / "mlflow" / ".gitignore").read_text().split()

    def test_kubernetes_starts_the_server_by_the_same_options(self):
        deployment, service = yaml.safe_load_all((CLUSTER / "kubernetes_mlflow.yaml").read_text())
        (container,) = deployment["spec"]["template"]["spec"]["containers"]

        def names(command: list[str]) -> list[str]:
            return [word.partition("=")[0] for word in command]

        assert names(container["command"]) == names(self.compose()["services"]["mlflow"]["command"])
        assert container["image"].endswith(f":{pinned('mlflow')}")
        assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
        _, variables = yaml.safe_load_all((CLUSTER / "kuberay_shared.yaml").read_text())
        (allowed,) = (word for word in container["command"] if word.startswith("--allowed-hosts="))
        host = variables["data"]["MLFLOW_TRACKING_URI"].removeprefix("http://")
        assert host in allowed.partition("=")[2].split(",")

    def test_only_the_server_is_reached_and_by_default_from_this_machine_alone(self):
        published = {
            name: service["ports"] for name, service in self.compose()["services"].items() if "ports" in service
        }
        assert published == {"mlflow": ["${MLFLOW_BIND:-127.0.0.1}:5000:5000"]}
        assert self.example()["MLFLOW_BIND"] == "127.0.0.1"

    def test_the_server_is_of_the_clients_version(self):
        assert f"mlflow=={pinned('mlflow')} " in (CLUSTER / "mlflow" / "Dockerfile").read_text()
        assert self.compose()["services"]["mlflow"]["image"].endswith(f":{pinned('mlflow')}")

    @pytest.mark.slow
    def test_mlflow_takes_every_option_and_answers_named_hosts_alone(self, tmp_path):
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            port = holder.getsockname()[1]
        here = {
            "--host": "127.0.0.1",
            "--port": str(port),
            "--workers": "1",
            "--artifacts-destination": str(tmp_path / "artifacts"),
        }
        values = {name: value.replace(":5000", f":{port}") for name, value in self.example().items()}
        options = []
        for option in self.compose()["services"]["mlflow"]["command"][1:]:
            name, _, value = option.partition("=")
            value = re.sub(r"\$\{(\w+)[^}]*\}", lambda found: values[found[1]], value)
            options.append(f"{name}={here.get(name, value)}" if value else name)
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *options],
            env={
                **os.environ,
                "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/runs.db",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # processes of their own, which take as long to start
            },
            cwd=tmp_path,
            stdout=(log := (tmp_path / "log").open("w")),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 120
            while (
                (alive := server.poll() is None) and time.monotonic() < deadline and self.asked(port, "/health") != 200
            ):
                time.sleep(0.2)
            assert alive, (tmp_path / "log").read_text()
            experiment = "/api/2.0/mlflow/experiments/get?experiment_id=0"
            assert self.asked(port, experiment) == 200
            assert self.asked(port, experiment, host="elsewhere.example.com") == 403
            # Kubernetes asks a pod whether it is well by its address, which is no name that the server knows.
            assert self.asked(port, "/health", host="10.1.2.3:5000") == 200
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            log.close()

    @staticmethod
    def asked(port: int, path: str, host: str | None = None) -> int:
        """Status of a request; 0 if nobody listens."""
        headers = {"Host": host} if host else {}
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0


class TestImage:
    @pytest.mark.parametrize("name", ["Dockerfile", "mlflow/Dockerfile"])
    def test_hadolint_has_nothing_to_say(self, name):
        found = subprocess.run([tool("hadolint"), str(CLUSTER / name)], capture_output=True, text=True, check=False)
        assert found.stdout == ""

    def test_what_is_copied_is_there_and_gets_into_the_context(self):
        copied = re.findall(r"(?m)^COPY (.+) \S+$", (CLUSTER / "Dockerfile").read_text())
        sources = [source for line in copied for source in line.split()]
        assert {"constraints.txt", "pyproject.toml", "infoprompt", "launcher", "configs"} <= set(sources)
        for source in sources:
            assert (ROOT / source).exists()
            assert not self.ignored(source)

    @pytest.mark.parametrize("path", [".git", ".venv", "runs", "mlflow.db", "cluster", "cluster/mlflow/.env", ".env"])
    def test_what_has_no_business_in_an_image_stays_out(self, path):
        assert self.ignored(path)

    def test_the_extras_exist(self):
        (extras,) = re.findall(r"--editable '\.\[(.+)\]'", (CLUSTER / "Dockerfile").read_text())
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert set(extras.split(",")) <= set(project["optional-dependencies"])

    @staticmethod
    def ignored(path: str) -> bool:
        """By .dockerignore's rule: the last pattern that fits the path, or a folder above it, decides."""
        ignored = False
        places = [path, *(str(parent) for parent in Path(path).parents)]
        for line in (ROOT / ".dockerignore").read_text().split("\n"):
            pattern = line.removeprefix("!").removeprefix("**/")
            if line and not line.startswith("#") and any(fnmatch.fnmatch(place, pattern) for place in places):
                ignored = not line.startswith("!")
        return ignored


class TestPage:
    TEXT = (CLUSTER / "README.md").read_text()

    def test_it_names_every_file(self):
        files = [path.relative_to(CLUSTER) for path in CLUSTER.rglob("*") if path.is_file()]
        quiet = {"README.md", "mlflow/.gitignore", "mlflow/.dockerignore", "mlflow/.env"}
        assert [str(file) for file in files if str(file) not in quiet and file.name not in self.TEXT] == []

    def test_every_file_that_it_names_is_there(self):
        named = re.findall(r"(?<!\w)(?:cluster|configs|launcher)/[\w./-]*\w", self.TEXT)
        assert named
        assert [name for name in named if name != "cluster/mlflow/.env" and not (ROOT / name).exists()] == []
