"""The exception tree.

    SerinusError                    everything this project raises on purpose
    ├── UserError                   someone can mend it: says where, what was found, what to do (exit code 2)
    │   ├── ConfigError             a recipe or topology file
    │   ├── InputError              documents, a model folder, an artifact that is damaged
    │   ├── ResourceError           memory, disk, a port, CPUs or GPUs of a pool
    │   │   └── ProcessDied         a worker's process ended by itself, or with its machine
    │   └── ClusterError            no cluster, a wrong token, a node that did not start
    ├── Conflict                    a compare-and-set lost the race: read again and decide again
    ├── GateFailed                  the model did not pass its gate: an answer, not a mistake (exit code 1)
    └── StageFailed                 a stage broke off though its input was good; what it had made is kept (exit code 3)

Anything else that escapes is a defect of serinus and is shown with its traceback.
"""

from __future__ import annotations


class SerinusError(Exception):
    """Root of the tree. `exit_code` is what the command line ends with."""

    exit_code = 3


class UserError(SerinusError):
    """Something a person can mend.

    Args:
        where: file with line, field, address or stage, as the reader would look for it.
        found: what is there.
        remedy: what to do, in the imperative.
    """

    exit_code = 2

    def __init__(self, where: str, found: str, remedy: str) -> None:
        super().__init__(where, found, remedy)
        self.where, self.found, self.remedy = where, found, remedy

    def __str__(self) -> str:
        return f"{self.where}: {self.found}\n  -> {self.remedy}"


class ConfigError(UserError):
    """A recipe or topology file says something it must not."""


class InputError(UserError):
    """Documents, a model folder or an artifact cannot be used as they are."""


class ResourceError(UserError):
    """The machine or the pool lacks memory, disk, a port, CPUs or GPUs."""


class ProcessDied(ResourceError):
    """A worker's process ended: memory ran out, or its machine is gone (cluster/node_loss.py tells)."""


class ClusterError(UserError):
    """The cluster is not there, not reachable, or refuses us."""


class Conflict(SerinusError):
    """A compare-and-set found another version than expected."""


class GateFailed(SerinusError):
    """A model did not pass its gate, which says so or cannot say."""

    exit_code = 1


class StageFailed(SerinusError):
    """A stage broke off although its input was good."""
