"""What is checked in is what is rendered, and kustomize makes of it what was meant."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import ConfigError
from cluster.kuberay import render
from cluster.kuberay.settings import CLIENT_LABEL, OVERLAYS
from tests.unit.cluster.kuberay.conftest import REPOSITORY, rendered, shipped, workload

K8S = REPOSITORY / "k8s"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_checked_in_is_what_is_rendered(overlay: str) -> None:
    files = render.render(shipped(), overlay, workload(overlay))
    here = {f"base/{path.name}" for path in (K8S / "base").iterdir()}
    here |= {str(path.relative_to(K8S)) for path in (K8S / "overlays" / overlay).rglob("*.yaml")}
    if OVERLAYS[overlay].monitored:
        here |= {f"dashboards/{path.name}" for path in (K8S / "dashboards").iterdir()}
    assert here == set(files), "run k8s/render.sh, and remove what it no longer writes"
    for name, text in files.items():
        assert (K8S / name).read_text() == text, f"run k8s/render.sh: {name} differs"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_base_with_an_overlays_patches_is_the_overlay(overlay: str) -> None:
    jsonpatch = pytest.importorskip("jsonpatch")
    settings, work = OVERLAYS[overlay], workload(overlay)
    kustomization = yaml.safe_load(render.render(shipped(), overlay, work)[f"overlays/{overlay}/kustomization.yaml"])
    patches = {(p["target"]["kind"], p["target"]["name"]): p["patch"] for p in kustomization["patches"]}
    base = [document for documents in render.base(shipped()).values() for document in documents]
    patched = []
    for document in base:
        patch = patches.pop((document["kind"], document["metadata"]["name"]), "[]")
        patched.append(jsonpatch.apply_patch(document, yaml.safe_load(patch)))
    assert patches == {}
    assert patched == render.overlay(shipped(), settings, work)[: len(base)]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_builds_the_overlay_as_rendered(overlay: str) -> None:
    done = subprocess.run(["kubectl", "kustomize", K8S / "overlays" / overlay], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = {_key(document): document for document in yaml.safe_load_all(done.stdout)}
    wanted = {_key(document): document for document in render.overlay(shipped(), OVERLAYS[overlay], workload(overlay))}
    assert built == wanted


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_another_image_reaches_every_container(tmp_path: Path) -> None:
    render.write(render.render(shipped(), "gpu", image="registry.example:5000/team/serinus:abc"), tmp_path)
    built = subprocess.run(
        ["kubectl", "kustomize", tmp_path / "overlays/gpu"], capture_output=True, text=True, check=True
    )
    images = {line.strip().removeprefix("image: ") for line in built.stdout.splitlines() if " image: " in line}
    assert images == {"registry.example:5000/team/serinus:abc"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1, "b": 2}, {"a": 1}),
        ({"a": 1}, {"a": 1, "b": {"c": [1]}}),
        ({"a": [1, 2]}, {"a": [1, 3]}),
        ({"a": [1, 2]}, {"a": [1, 2, 3]}),
        ({"ray.io/a~b": {"x": 1}}, {"ray.io/a~b": {"x": 2}}),
        ({"a": {"b": 1}}, {"a": [1]}),
    ],
)
def test_a_difference_leads_from_one_to_the_other(old: dict[str, Any], new: dict[str, Any]) -> None:
    jsonpatch = pytest.importorskip("jsonpatch")
    assert jsonpatch.apply_patch(old, list(render.difference(old, new))) == new
    assert list(render.difference(new, new)) == []


def test_an_unknown_overlay_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose among dev, gpu, production"):
        render.settings_of("prod")


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "k8s").write_text("a file")
    with pytest.raises(ConfigError, match="name a folder"):
        render.write({"base/x.yaml": ""}, tmp_path / "k8s")


def test_rendering_imports_nothing_heavy(tmp_path: Path) -> None:
    heavy = "{'ray', 'torch', 'vllm', 'deepspeed', 'transformers', 'pyarrow', 'boto3', 'scipy', 'kubernetes'}"
    code = (
        "import sys, serinus\n"
        f"words = ['recipes/gpu.yaml', '--overlay', 'production', '--out', {str(tmp_path)!r}]\n"
        "serinus.app(args=['k8s', 'render', *words], standalone_mode=False)\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def _secrets(part: Any) -> set[str]:
    """Names of all Secrets that a part of a document refers to."""
    if isinstance(part, list):
        return {name for item in part for name in _secrets(item)}
    if not isinstance(part, dict):
        return set()
    named = {part["secretName"]} if "secretName" in part else set()
    named |= {part[key]["name"] for key in ("secretRef", "secretKeyRef") if key in part}
    return named.union(*map(_secrets, part.values()))


@pytest.mark.parametrize("page", ["k8s/README.md", "docs/kubernetes.md"])
def test_the_pages_name_every_secret_and_the_label_of_clients(page: str) -> None:
    text = (REPOSITORY / page).read_text()
    wanted = {name for overlay in OVERLAYS for document in rendered(overlay) for name in _secrets(document)}
    assert {"serinus-auth-token", "serinus-redis", "serinus-environment"} <= wanted
    assert {name for name in wanted if f"| `{name}` |" not in text} == set()
    assert f"{CLIENT_LABEL}=true" in text


def _key(document: dict[str, Any]) -> tuple[str, str]:
    return document["kind"], document["metadata"]["name"]
