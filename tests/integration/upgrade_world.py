"""An installation of its own that is upgraded: a copy of the sources, from which a cluster of `serinus up` runs, and its commands.

`python -m tests.integration.upgrade_world WHAT RECIPE` is what the test does in that cluster: stand-ins for engines that say of
themselves what a deployment of the recipe asks, so that `serinus deploy` leaves them as they are; a rollout between them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
PARTS = ("cluster", "services", "pipelines", "tests", "ray_cluster.yaml", "pyproject.toml")


class Site:
    """The installation, and its user's commands."""

    def __init__(self, root: Path, recipe: dict[str, Any]) -> None:
        self.root, self.home, self.recipe = root / "site", root / "home", root / "recipe.yaml"
        self.recipe.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        self.root.mkdir()
        for part in (*PARTS, *(file.name for file in REPOSITORY.glob("serinus*.py"))):
            whole, copy = REPOSITORY / part, self.root / part
            shutil.copytree(
                whole, copy, ignore=shutil.ignore_patterns("__pycache__")
            ) if whole.is_dir() else shutil.copy(whole, copy)

    def run(self, *words: str, timeout_s: float = 240) -> str:
        """What `python -m WORDS` prints; fails the test if it fails."""
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SERINUS_"))}
        environment = {**outside, "PYTHONPATH": str(self.root), "SERINUS_HOME": str(self.home)}
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def act(self, what: str) -> str:
        return self.run("tests.integration.upgrade_world", what, str(self.recipe)).strip()

    def upgrade(self, file: str, before: str, after: str) -> None:
        """As an installer does it: another file in the place of one that running processes have read."""
        place = self.root / file
        content = place.read_text(encoding="utf-8")
        assert before in content
        place.unlink()
        place.write_text(content.replace(before, after), encoding="utf-8")


def serve(recipe: Any, storage: Any) -> str:
    """Two revisions of stand-ins, stable having everybody."""
    from ray import serve

    from cluster import registry
    from cluster.artifacts import Revision
    from services.contract import MODEL_DEPLOYMENT, application_name
    from services.rollout import controller
    from services.serving import address, app
    from tests.chaos.serving_world import ONE, OTHER, Thinking

    class Deployed(Thinking):
        """A stand-in that was deployed as the recipe says."""

        def __init__(self, revision: str, settings: str) -> None:
            super().__init__(revision)
            self.told = settings

        async def settings(self) -> str:
            return self.told

    address.listen(recipe.serve)
    model: Any = serve.deployment(Deployed, name=MODEL_DEPLOYMENT, max_ongoing_requests=100)
    model = model.options(ray_actor_options={"num_cpus": 0}, graceful_shutdown_timeout_s=1)
    for number, name in enumerate((ONE, OTHER)):
        revision = Revision(key=f"{number:016x}", name=recipe.name, revision=name, weights="w")
        registry.publish_revision(storage, revision)
        settings = app._settings_of(revision, recipe.serve, storage)
        target = serve.RunTarget(model.bind(name, settings), name=application_name(name), route_prefix=None)
        serve.run_many([target], wait_for_applications_running=True)
    controller.ensure_traffic(storage, recipe.name, ONE)
    return app.gateway_url(recipe.serve)


def roll_out(recipe: Any, storage: Any) -> str:
    """Begins with the other one; returns the rollout's id."""
    from services.rollout import controller
    from tests.chaos.serving_world import OTHER

    return controller.start_rollout(storage, recipe.name, OTHER, recipe.rollout, keep_revisions=9, who="test")


def running(recipe: Any, storage: Any) -> str:
    """The process of the controller, and which serinus it runs."""
    import ray

    from services.contract import NAMESPACE, actor_name

    actor = ray.get_actor(actor_name(recipe.name), namespace=NAMESPACE)
    return f"{ray.get(actor.pid.remote())} {ray.get(actor.code.remote())}"


def main(what: str, file: str) -> None:
    from cluster.config import load_yaml
    from cluster.session import joined
    from cluster.storage import open_storage
    from serinus_recipe import Recipe

    recipe = load_yaml(Path(file), Recipe)
    with joined():
        sys.stdout.write(
            {"serve": serve, "roll_out": roll_out, "running": running}[what](recipe, open_storage(recipe.storage))
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
