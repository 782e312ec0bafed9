"""Decay on real vLLM: a promoted adapter changes under its name. A point less is left alone, a broken one goes back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from cluster import registry
from cluster.artifacts import Revision
from services import audit
from services.config import NotifyConfig, ProbesConfig, ProbeSetConfig, RolloutConfig, StepConfig, WebhookConfig
from services.contract import NAMESPACE, actor_name, read_traffic
from services.engines import attach, detach
from services.rollout import controller, prober
from services.rollout.decay_status import WatchStatus
from services.rollout.receivers import publish_receivers
from services.rollout.summary import QualitySummary, lines
from tests.e2e.adapters import adapter
from tests.e2e.conftest import NAME, STABLE, Served
from tests.integration.gateway_world import eventually
from tests.integration.listener import Listener

pytestmark = [pytest.mark.e2e, pytest.mark.long]

NUM_ITEMS = 100
NUM_TOKENS = 4
SHIFT = 0.01
"""By which share the slightly worse adapter differs: a few of its answers then do."""
PROMPTS = [f"{verb} {noun} {number}" for number in range(4) for verb in ("sort", "join", "count", "print", "open", "call")
           for noun in ("the list", "a tuple", "names", "keys", "values", "strings", "numbers", "files")]  # fmt: skip


class Scene:
    """A promoted adapter in STABLE's engine, and what its files are exchanged for."""

    def __init__(self, served: Served, model: Path, folder: Path, listener: Listener) -> None:
        self.served, self.storage, self.listener = served, served.storage, listener
        base = registry.resolve(served.storage, NAME, STABLE)
        self.good = adapter(served, base, model, folder / "good", 11)
        self.kinds = {"good": folder / "good", "worse": folder / "worse", "broken": folder / "broken"}
        adapter(served, base, model, folder / "broken", 12)
        _shifted(folder / "good", folder / "worse")

    def swap(self, kind: str) -> None:
        """Exchange the files, and let the engine load what it finds under the adapter's name, as it does when it starts anew."""
        weights = "adapter_model.safetensors"
        place = self.storage.root / self.good.adapter / weights
        draft = place.with_suffix(".draft")
        shutil.copyfile(self.kinds[kind] / weights, draft)
        draft.replace(place)
        detach(self.storage, NAME, self.good.revision)
        reports = attach(self.storage, self.good)
        assert all(self.good.revision in report.adapters for report in reports), reports

    def answers(self, user: str) -> list[str]:
        """To PROMPTS, in their order."""
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda prompt: self.ask(user, prompt)[1], PROMPTS))

    def ask(self, user: str, prompt: str) -> tuple[str, str]:
        """The revision that answers and its text."""
        body = {"model": NAME, "prompt": prompt, "max_tokens": NUM_TOKENS, "temperature": 0, "user": user}
        answer = httpx.post(f"{self.served.url}/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.headers["x-serinus-revision"], answer.json()["choices"][0]["text"]

    @property
    def watch(self) -> WatchStatus:
        found = controller.decay(self.storage, NAME)
        assert found is not None
        return found

    @property
    def stable(self) -> str:
        found = read_traffic(self.storage, NAME)
        assert found is not None
        return found[0].stable


def _shifted(source: Path, target: Path) -> None:
    """The same adapter with a little noise on half of its matrices."""
    import torch
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(13)
    tensors = load_file(source / "adapter_model.safetensors")
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensors[name] = tensor + SHIFT * tensor.std() * torch.randn(tensor.shape, generator=generator)
    target.mkdir()
    save_file(tensors, target / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def scene(served: Served, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    import ray

    listener = Listener()
    listener.answers = True
    webhook = WebhookConfig(url=f"http://127.0.0.1:{listener.server_port}/")
    publish_receivers(served.storage, NAME, NotifyConfig(webhooks=(webhook,)))
    actors = [controller.ensure_controller(NAME, served.storage.location)]
    scene = Scene(served, tiny_model, tmp_path_factory.mktemp("decay"), listener)
    yield scene
    detach(served.storage, NAME, scene.good.revision)
    publish_receivers(served.storage, NAME, NotifyConfig())
    actors.append(prober.ensure_prober(NAME, served.storage.location))
    for actor in actors:
        ray.kill(actor)
    named = {"name": actor_name(NAME), "namespace": NAMESPACE}
    eventually(lambda: named not in ray.util.list_named_actors(all_namespaces=True))  # the next module starts its own
    listener.shutdown()
    listener.server_close()


def roll_out(scene: Scene, candidate: Revision, weight: float, probes: ProbesConfig) -> None:
    from services.serving import app

    app.deploy_revision(candidate, scene.served.serving, scene.storage)
    steps = (StepConfig(weight_percent=weight, min_requests=10**6, prove="none"),)
    config = RolloutConfig(steps=steps, interval_s=0.5, drain_s=0.5, probes=probes)
    controller.start_rollout(scene.storage, NAME, candidate.revision, config, who="test")
    eventually(
        lambda: (found := controller.status(scene.storage, NAME)) is not None and found.weight_applied_at is not None
    )


def ended(scene: Scene, phase: str) -> None:
    eventually(lambda: (found := controller.status(scene.storage, NAME)) is not None and found.ended)
    found = controller.status(scene.storage, NAME)
    assert found is not None
    assert found.phase == phase


def items(scene: Scene, path: Path) -> None:
    """NUM_ITEMS questions with the good adapter's answers, of which exactly one is answered otherwise by the slightly worse one."""
    roll_out(scene, scene.good, 99, ProbesConfig())
    user = next(name for name in map(str, range(100)) if scene.ask(name, "hello")[0] == scene.good.revision)
    good = scene.answers(user)
    scene.swap("worse")
    worse = scene.answers(user)
    scene.swap("good")
    controller.abort(scene.storage, NAME, who="test")
    ended(scene, "aborted")
    rows = [{"prompt": p, "answer": g} for p, g in zip(PROMPTS, good, strict=True) if g.strip()]
    alike = {p for p, g, w in zip(PROMPTS, good, worse, strict=True) if g == w}
    same, other = ([row for row in rows if (row["prompt"] in alike) is told] for told in (True, False))
    print(f"{len(same)} answered alike, {len(other)} otherwise")
    assert len(same) >= NUM_ITEMS - 1
    assert other
    path.write_text("".join(json.dumps(row) + "\n" for row in [*same[: NUM_ITEMS - 1], other[0]]))


def test_a_point_less_is_left_alone_and_an_exchanged_adapter_goes_back(scene: Scene, tmp_path: Path) -> None:
    items(scene, tmp_path / "items.jsonl")
    chosen = ProbeSetConfig(name="golden", path=str(tmp_path / "items.jsonl"), max_tokens=NUM_TOKENS)
    decay = {"items_per_minute": 6000, "round_every_h": 0}
    fields = {"sets": (chosen,), "items_per_minute": 6000, "max_concurrent": 4, "decay": decay}
    roll_out(scene, scene.good, 50, ProbesConfig.model_validate(fields))
    controller.promote(scene.storage, NAME, who="test")
    ended(scene, "promoted")
    eventually(lambda: controller.decay(scene.storage, NAME) is not None and scene.watch.phase == "watching")
    assert (scene.watch.revision, scene.watch.num_recorded) == (scene.good.revision, NUM_ITEMS)
    assert scene.watch.recorded == pytest.approx(1, abs=0.011)

    scene.swap("worse")
    began = scene.watch.round
    eventually(lambda: scene.watch.round >= began + 2)  # one round as a whole
    watch = scene.watch
    assert (watch.phase, scene.stable) == ("watching", scene.good.revision)
    assert watch.last is not None
    assert watch.last.drop == pytest.approx(0.01, abs=0.011)  # engines may tip one more answer over
    told = "\n".join(lines(QualitySummary(decay=watch)))
    print(told)
    assert "points down, no drop beyond 3 points is established" in told
    assert "more items would exclude one of 5" in told

    scene.swap("broken")
    eventually(lambda: scene.watch.phase == "reverted")
    assert scene.stable == STABLE
    assert registry.aliases(scene.storage, NAME)["previous"] == scene.good.revision
    eventually(lambda: scene.ask("anyone", "hello")[0] == STABLE)
    told = "\n".join(lines(QualitySummary(decay=scene.watch)))
    print(told)
    assert "has decayed" in told
    assert f"back to {STABLE}" in told
    assert "reverted" in scene.listener.wait("reverted")
    recorded = [stored.entry.line for stored in audit.entries(scene.storage, NAME)]
    line = [line for line in recorded if line.kind == "reverted"][-1]
    assert line.who == "analysis"
    assert "has decayed" in line.message
