"""Training on Kubernetes: a pod on one of the nodes where the version is warm and mounted.

Imported only where the settings choose this launcher: the provider takes seconds to import, at each parse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import models as k8s

from outlap_airflow.faults import told
from outlap_airflow.training import command_line


def affinity(nodes: Sequence[str]) -> Any:
    """A pod may run on these nodes only: elsewhere there is no mount."""
    term = k8s.V1NodeSelectorTerm(
        match_expressions=[
            k8s.V1NodeSelectorRequirement(key="kubernetes.io/hostname", operator="In", values=sorted(nodes))
        ]
    )
    selector = k8s.V1NodeSelector(node_selector_terms=[term])
    return k8s.V1Affinity(
        node_affinity=k8s.V1NodeAffinity(required_during_scheduling_ignored_during_execution=selector)
    )


class TrainOnWarmNodes(KubernetesPodOperator):
    """KubernetesPodOperator with affinity to the warm nodes and the view below the same path as on the node, read-only.

    planned, mounted: what `training.plan` and `training.mount` return. command: like the form's.
    """

    template_fields: Sequence[str] = (*KubernetesPodOperator.template_fields, "planned", "mounted", "command")

    def __init__(self, *, planned: Any, mounted: Any, command: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.planned, self.mounted, self.command = planned, mounted, command

    @told()
    def place(self, planned: Mapping[str, Any], mounted: Mapping[str, Any]) -> None:
        """Fill in affinity, volume, command and variables. Raises AirflowFailException for a command that is none."""
        target = mounted["target"]
        nodes = [item["node"] for item in mounted["nodes"] if item["target"] == target]
        self.affinity = affinity(nodes)
        self.volumes = [
            k8s.V1Volume(name="view", host_path=k8s.V1HostPathVolumeSource(path=target, type="Directory"))
        ]
        self.volume_mounts = [
            k8s.V1VolumeMount(
                name="view", mount_path=target, read_only=True, mount_propagation="HostToContainer"
            )
        ]
        words = command_line(self.command, target)
        self.cmds, self.arguments = words[:1], words[1:]
        named = {
            "OUTLAP_MOUNT": target,
            "OUTLAP_DATASET": planned["dataset"],
            "OUTLAP_VERSION": planned["version"],
        }
        self.env_vars = [k8s.V1EnvVar(name=name, value=value) for name, value in named.items()]

    def execute(self, context: Any) -> Any:
        self.place(self.planned, self.mounted)
        return super().execute(context)
