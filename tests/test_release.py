"""Version, address of the repository, Pythons and images: all files agree with pyproject.toml."""

import itertools
import math
import os
import re
import shlex
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from documents import check_options, commands

import deberta_jax

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
OWNER_AND_NAME = REPOSITORY.removeprefix("https://github.com/")
FOLDERS = (".ci", ".github", "benchmarks", "deberta_jax", "docker", "docs", "notebooks", "tests")
SUFFIXES = ("", ".cff", ".css", ".html", ".ipynb", ".j2", ".md", ".py", ".toml", ".txt", ".yaml", ".yml")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def texts() -> dict[Path, str]:
    """The text files of the repository, without what is built and what notebooks write."""
    paths = [*ROOT.glob("*.*"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    paths = [path for path in paths if "build" not in str(path.parent) and "runs" not in path.parts]
    paths = [path for path in paths if path.is_file() and path.suffix in SUFFIXES]
    return {path: path.read_text(encoding="utf-8") for path in paths}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments, one line each."""
    lines = re.sub(r"^\s*#.*\n", "", read("docker/Dockerfile"), flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage by its name, the ones of the stages it is built from first."""
    result: dict[str, list[tuple[str, str]]] = {}
    for name, argument in instructions():
        if name == "FROM":
            base, _, stage = argument.partition(" AS ")
            result[stage] = list(result.get(base, [("FROM", base)]))
        else:
            result[stage].append((name, argument))
    return result


def test_the_version_is_the_same_everywhere():
    assert deberta_jax.__version__ == PROJECT["version"]
    assert yaml.safe_load(read("CITATION.cff"))["version"] == PROJECT["version"]
    assert re.search(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)[1] == PROJECT["version"]


def test_the_address_of_the_repository_is_the_same_everywhere():
    pattern = re.compile(
        r"github(?:usercontent)?(?:\.com)?/([\w.-]+/deberta[-_]jax)\b(?:/(?:blob|tree)/main/([\w./-]+))?"
    )
    addresses = [(path, *match) for path, text in texts().items() for match in pattern.findall(text)]
    assert {path.name for path, *_ in addresses} >= {"CITATION.cff", "SECURITY.md", "config.yml", "pyproject.toml"}
    for path, name, file in addresses:
        assert name == OWNER_AND_NAME, path
        assert (ROOT / file).exists(), f"{path}: {file}"
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["repository-code"] == citation["url"] == REPOSITORY
    # The documentation may have a site of its own.
    assert all(url.startswith(REPOSITORY) for name, url in PROJECT["urls"].items() if name != "Documentation")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_a_badge_that_opens_it(path):
    badge = f"https://colab.research.google.com/github/{OWNER_AND_NAME}/blob/main/notebooks/{path.name}"
    assert badge in path.read_text(encoding="utf-8")


def test_the_workflows_run_what_is_run_here():
    ci, docs, release = (yaml.safe_load(read(f".github/workflows/{name}.yml")) for name in ("ci", "docs", "release"))
    options = re.search(r"sphinx-build (.*) docs ", read(".ci/run"))[1].replace("-q ", "")
    assert f"sphinx-build {options} docs site" in [step.get("run") for step in docs["jobs"]["build"]["steps"]]
    assert ".ci/run" in [step.get("run") for step in ci["jobs"]["checks"]["steps"]]
    # YAML reads the key `on` as true.
    assert release[True] == {"push": {"tags": ["v*"]}}
    jobs = release["jobs"]
    assert jobs["test"]["needs"] == "build" and jobs["publish"]["needs"] == "test"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    classifiers = [item.removeprefix("Programming Language :: Python :: ") for item in PROJECT["classifiers"]]
    assert jobs["test"]["strategy"]["matrix"]["python"] == [
        item for item in classifiers if re.fullmatch(r"3\.\d+", item)
    ]
    scripts = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert all((ROOT / script.split()[0]).stat().st_mode & 0o100 for script in scripts)


def test_an_image_is_pinned_and_does_not_run_as_root():
    for name in ("cpu", "cuda", "tpu"):
        image = dict(stages()[name])
        assert image["USER"] == "1000" and image["ENTRYPOINT"] == '["deberta-jax"]'
        assert image["COPY"] == f"--from={name}-packages /opt/deberta-jax /opt/deberta-jax"
        packages = [argument for instruction, argument in stages()[f"{name}-packages"] if instruction == "RUN"]
        *options, requirement = shlex.split(packages[-1])
        assert options == ["/opt/deberta-jax/bin/pip", "install", "--no-cache-dir", "-c", "constraints.txt"]
        extra = re.fullmatch(r"\.(?:\[(\w+)\])?", requirement)[1]
        assert extra is None if name == "cpu" else extra in PROJECT["optional-dependencies"]
    assert list(stages())[-1] == "cpu"


def test_an_image_is_built_from_files_that_exist_and_an_official_base():
    copied = [
        file
        for name, argument in instructions()
        if name == "COPY" and "--from" not in argument
        for file in argument.split()[:-1]
    ]
    assert all((ROOT / file).exists() for file in copied)
    ignored = read("docker/Dockerfile.dockerignore").splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)
    bases = {argument.split()[0] for name, argument in instructions() if name == "FROM"} - set(stages())
    version = re.fullmatch(r"python:(3\.\d+)-slim", bases.pop())[1]
    assert not bases and f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_the_pods_of_the_manifest_are_the_processes_of_a_run():
    service, job = yaml.safe_load_all(read("docker/kubernetes.yaml"))
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [script] = container["args"]
    [words] = commands(script.replace("$JOB_COMPLETION_INDEX", str(spec["completions"] - 1)))
    check_options(words)
    options = {word.removeprefix("--"): value for word, value in itertools.pairwise(words) if word.startswith("--")}
    assert options["processes.count"] == str(spec["completions"]) == str(spec["parallelism"])
    # Kubernetes names the pods by the job and their index, below the service that selects them.
    names, service_name = job["metadata"]["name"], service["metadata"]["name"]
    assert options["processes.coordinator"].startswith(f"{names}-0.{pod['subdomain']}:")
    assert pod["subdomain"] == service_name and service["spec"]["selector"] == {"job-name": names}
    chips = spec["completions"] * container["resources"]["limits"]["google.com/tpu"]
    assert options["mesh.fsdp"] == str(chips)
    shape = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    assert chips == math.prod(int(size) for size in shape.split("x"))
    # An error of the input is not repeated.
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2]


# What the command of a pod does: it exits with a code, or is stopped.
POD = """#!/bin/sh
trap "exit 0" TERM
touch started
case $ACTION in stopped) while :; do sleep 0.01; done;; *) exit $ACTION;; esac
"""


@pytest.mark.parametrize(
    ("action", "has_model", "code"), [("0", True, 0), ("2", True, 2), ("1", False, 1), ("stopped", False, 1)]
)
def test_a_pod_is_complete_when_the_model_is_exported(action, has_model, code, tmp_path):
    _, job = yaml.safe_load_all(read("docker/kubernetes.yaml"))
    [container] = job["spec"]["template"]["spec"]["containers"]
    if has_model:
        (tmp_path / "runs/xxl/model").mkdir(parents=True)
    command = tmp_path / "deberta-jax"
    command.write_text(POD)
    command.chmod(0o755)
    script = container["args"][0].replace("/shared", str(tmp_path))
    variables = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ACTION": action}
    process = subprocess.Popen([*container["command"], script], env=variables, cwd=tmp_path)
    while action == "stopped" and not (tmp_path / "started").exists():
        time.sleep(0.01)
    if action == "stopped":
        process.terminate()
    assert process.wait(60) == code


def test_ci_runs_the_test_command_of_the_readme():
    function = re.search(r"^readme_command\(\) \{\n.*?^\}$", read(".ci/run"), re.MULTILINE | re.DOTALL)[0]
    script = f"{function}\nreadme_command tests"
    command = subprocess.run(["bash", "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert command.endswith("pytest\n") and command.count("\n") == 1
