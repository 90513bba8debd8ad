"""The part of KubeRay's schema of a RayJob that recipes/cluster/kuberay.yaml uses, as a JSON schema without other keys.

Written down from the types that the published CRD (ray-operator/config/crd/bases/ray.io_rayjobs.yaml in
ray-project/kuberay) is generated from, ray-operator/apis/ray/v1/rayjob_types.go and raycluster_types.go, and from
Kubernetes' PodTemplateSpec (v1); no package of PyPI or npm ships the CRD. Kubernetes drops a key that it does not know
without a word, so here it is an error.
"""

from __future__ import annotations

from typing import Any


def _map(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


STRING: dict[str, Any] = {"type": "string"}
WORDS: dict[str, Any] = {"type": "object", "additionalProperties": STRING}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
QUANTITY: dict[str, Any] = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"}
_QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}

_CONTAINER = _map(
    ("name", "image"),
    name=STRING,
    image=STRING,
    ports=_list(_map(("containerPort",), containerPort={**COUNT, "maximum": 65535}, name={**STRING, "maxLength": 15})),
    env=_list(_map(("name", "value"), name=STRING, value=STRING)),  # a number would be refused
    resources=_map(limits=_QUANTITIES, requests=_QUANTITIES),
    volumeMounts=_list(_map(("mountPath", "name"), mountPath=STRING, name=STRING)),
)
_VOLUME = _map(
    ("name",),
    name=STRING,
    persistentVolumeClaim=_map(("claimName",), claimName=STRING),
    emptyDir=_map(medium={"enum": ["", "Memory"]}, sizeLimit=QUANTITY),
)
_TEMPLATE = _map(
    ("spec",),
    metadata={"type": "object"},
    spec=_map(
        ("containers",),
        terminationGracePeriodSeconds=COUNT,
        containers={**_list(_CONTAINER), "minItems": 1},
        volumes=_list(_VOLUME),
    ),
)
_HEAD = _map(("rayStartParams", "template"), rayStartParams=WORDS, serviceType=STRING, template=_TEMPLATE)
_WORKERS = _map(
    ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    groupName=STRING,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    rayStartParams=WORDS,
    template=_TEMPLATE,
)
_CLUSTER = _map(
    ("headGroupSpec",),
    rayVersion=STRING,
    headGroupSpec=_HEAD,
    workerGroupSpecs=_list(_WORKERS),
    enableInTreeAutoscaling={"type": "boolean"},
)
RAY_JOB = _map(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=_map(("name",), name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?$"}),
    spec=_map(
        ("entrypoint", "rayClusterSpec"),
        activeDeadlineSeconds=COUNT,
        backoffLimit=COUNT,
        entrypoint=STRING,
        entrypointNumCpus={"type": "number"},
        entrypointNumGpus={"type": "number"},
        runtimeEnvYAML=STRING,
        jobId=STRING,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
        suspend={"type": "boolean"},
        rayClusterSpec=_CLUSTER,
    ),
)
