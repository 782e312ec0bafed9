"""A recipe whole, and what is read out of it for packages that know a part of it each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import model_validator

from cluster import config
from cluster.config import load_yaml
from cluster.doctor import commands as doctor_command
from cluster.recipe import deployed
from cluster.storage import open_storage
from pipelines.config import LifecycleConfig
from services.config import NotifyConfig, RolloutConfig, ServingConfig

if TYPE_CHECKING:
    from cluster.check_commands import Asked
    from cluster.kuberay.settings import Workload
    from cluster.topology import Topology


class Recipe(LifecycleConfig):
    """A whole lifecycle: how a model is made (pipelines) and how it is run (services)."""

    serve: ServingConfig = ServingConfig()
    rollout: RolloutConfig = RolloutConfig()
    notify: NotifyConfig = NotifyConfig()

    @property
    def caveats(self) -> tuple[str, ...]:
        """What these settings cannot do, for whoever checks a recipe."""
        caveats = (*self.quantization_caveats, *self.rollout.caveats)
        if not self.rollout.feedback or self.serve.admission.keys:
            return caveats
        who = "without serve.admission.keys a user is whoever a client says it is, so that one client can vote as many"
        return (*caveats, f"rollout.feedback: {who}, and take a canary out")

    @model_validator(mode="after")
    def _copies_to_judge_by(self) -> Recipe:
        if self.rollout.begins_with_copies and not 0 < self.serve.shadow.percent < 100:
            found = f"serve.shadow.percent is {self.serve.shadow.percent:g}"
            raise ValueError(
                f"rollout.steps begins at 0 %, by copies compared with requests that are not copied, and {found}: "
                "set it to a share between 0 and 100"
            )
        return self


def read(given: Path | None) -> Recipe:
    """None: the recipe of the last `serinus deploy`."""
    return load_yaml(deployed() if given is None else given, Recipe)


def named(recipe: Path | None) -> doctor_command.Named:
    """What the doctor looks at."""
    loaded = load_yaml(recipe, Recipe) if recipe else None
    serve = loaded.serve if loaded else ServingConfig()
    named = (serve.admission.keys, serve.control.keys if serve.control else None)
    keys = [Path(file) for file in named if file]
    return doctor_command.Named(loaded.storage if loaded else None, keys, serve.port)


def asked(recipe: Path) -> Asked:
    """What the recipe asks of the cluster, and how many parameters its model has where that is known."""
    from cluster.check_commands import Asked
    from pipelines import demand as lifecycle
    from pipelines.model_size import num_parameters
    from services import demand as serving

    loaded = load_yaml(recipe, Recipe)
    size = num_parameters(loaded.model.source)
    heaviest = max(plan.bytes_per_weight for plan in loaded.quantize.plans)
    demands = [*lifecycle.demands(loaded, size), *serving.demands(loaded.serve, size, heaviest)]
    return Asked(demands, loaded.model.source, size)


def workload(path: Path, overlay: str, topology: Topology) -> Workload:
    """What the recipe means for a cluster on Kubernetes."""
    from cluster.kuberay.fit import pods_of_stages
    from cluster.kuberay.recipe import in_cluster
    from cluster.kuberay.render import settings_of
    from cluster.kuberay.settings import PROJECT_FOLDER, Workload
    from cluster.session import package_root
    from pipelines.demand import demands

    loaded, settings, root = load_yaml(path, Recipe), settings_of(overlay), package_root()
    dumped = loaded.model_dump(mode="json", exclude_unset=True)
    script = path.resolve().parent / path.stem / "prepare.py"
    known = script.exists() and script.is_relative_to(root)
    return Workload(
        name=loaded.name,
        recipe=in_cluster(dumped, str(path), root, settings),
        port=loaded.serve.port,
        tls=loaded.serve.tls is not None,
        prepare=f"python {PROJECT_FOLDER / script.relative_to(root)}" if known else None,
        nodes={**pods_of_stages(topology, settings, demands(loaded), str(path)), "publish": {}},
    )


def few_keys(recipe: Recipe) -> str | None:
    """A user is a key where there are keys: what so few of them cannot show."""
    path = recipe.serve.admission.keys
    if path is None or not os.access(path, os.R_OK):  # it may lie on the head node alone, or be another user's
        return None
    from services.serving.keys import KeyFile

    if few := recipe.rollout.too_few(len(load_yaml(Path(path), KeyFile).keys)):
        return f"serve.admission.keys: {few}"
    return None


def model_folder(gguf: Path) -> Path:
    """A .gguf file as a Hugging Face folder, made once."""
    from pipelines.base_model import as_folder

    return as_folder(gguf, open_storage(str(config.home() / "models")))
