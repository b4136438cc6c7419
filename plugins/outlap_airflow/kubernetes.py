"""Training on Kubernetes: a pod, or a job of one, on a node where the version is warm and mounted.

Imported only where the settings choose such a launcher: the provider takes seconds to import, at each parse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.cncf.kubernetes.backcompat.backwards_compat_converters import convert_affinity
from airflow.providers.cncf.kubernetes.operators.job import KubernetesJobOperator
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import models as k8s

from cacheengine.affinity import on_nodes
from outlap_airflow import training
from outlap_airflow.faults import told
from outlap_airflow.training import command_line

OURS = ("planned", "mounted", "command", "percent")
NODE = "node"


def affinity(nodes: Sequence[str], preferred: str | None = None) -> Any:
    """A pod may run on these nodes only: elsewhere there is no mount. preferred: where the try before ran."""
    return convert_affinity({"nodeAffinity": on_nodes(nodes, preferred)})


@told()
def place(
    operator: Any, planned: Mapping[str, Any], mounted: Mapping[str, Any], preferred: str | None = None
) -> None:
    """Fill in affinity, the view below the same path as on the node, read-only, command and variables of a pod.

    Raises AirflowFailException for a command that is none.
    """
    target = mounted["target"]
    nodes = [item["node"] for item in mounted["nodes"] if item["target"] == target]
    operator.affinity = affinity(nodes, preferred)
    operator.volumes = [
        k8s.V1Volume(name="view", host_path=k8s.V1HostPathVolumeSource(path=target, type="Directory"))
    ]
    operator.volume_mounts = [
        k8s.V1VolumeMount(name="view", mount_path=target, read_only=True, mount_propagation="HostToContainer")
    ]
    words = command_line(operator.command, target)
    operator.cmds, operator.arguments = words[:1], words[1:]
    named = {
        "OUTLAP_MOUNT": target,
        "OUTLAP_DATASET": planned["dataset"],
        "OUTLAP_VERSION": planned["version"],
    }
    operator.env_vars = [k8s.V1EnvVar(name=name, value=value) for name, value in named.items()]


def place_warm(operator: Any, context: Any) -> None:
    """`place` on what is warm now, and where the try before ran when that is among it. Raises AirflowException when none is."""
    kept = training.still_warm(operator.planned, operator.mounted, float(operator.percent))
    if not kept["nodes"]:
        raise AirflowException("no node that had the view is warm any more. Next: clear the task `warm`")
    store = context.get("task_state_store")
    place(operator, operator.planned, kept, store.get(NODE) if store is not None else None)


class TrainOnWarmNodes(KubernetesPodOperator):
    """KubernetesPodOperator on the warm nodes, the view below the same path as on the node, read-only.

    planned, mounted: what `training.plan` and `training.mount` return. command: like the form's. percent: how much a node must have.
    """

    template_fields: Sequence[str] = (*KubernetesPodOperator.template_fields, *OURS)

    def __init__(
        self, *, planned: Any, mounted: Any, command: str, percent: Any = 100, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.planned, self.mounted, self.command, self.percent = planned, mounted, command, percent

    def execute(self, context: Any) -> Any:
        place_warm(self, context)
        return super().execute(context)

    def post_complete_action(self, *, pod: Any, remote_pod: Any, context: Any, **kwargs: Any) -> None:
        """The pod has ended, well or not: remember where it ran, for the next try."""
        store = context.get("task_state_store") if context else None
        if store is not None and remote_pod is not None and remote_pod.spec.node_name:
            store.set(NODE, remote_pod.spec.node_name)
        super().post_complete_action(pod=pod, remote_pod=remote_pod, context=context, **kwargs)


class TrainJobOnWarmNodes(KubernetesJobOperator):
    """The same as a Kubernetes Job, for clusters whose queues and quotas know jobs. Airflow tries again, the job does not."""

    template_fields: Sequence[str] = (*KubernetesJobOperator.template_fields, *OURS)

    def __init__(
        self, *, planned: Any, mounted: Any, command: str, percent: Any = 100, **kwargs: Any
    ) -> None:
        kwargs = {
            "backoff_limit": 0,
            "ttl_seconds_after_finished": 3600,
            "wait_until_job_complete": True,
            **kwargs,
        }
        super().__init__(**kwargs)
        self.planned, self.mounted, self.command, self.percent = planned, mounted, command, percent

    def execute(self, context: Any) -> Any:
        place_warm(self, context)
        return super().execute(context)


LAUNCHERS = {"kubernetes": TrainOnWarmNodes, "kubernetes-job": TrainJobOnWarmNodes}
