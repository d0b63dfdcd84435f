"""What the installer decides, and no Study can: read from one file, and some of it from the process's flags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from hpo_algorithms import Fault, InvalidInput
from pydantic import Field, ValidationError

from hpo_operator.cluster.claims import GPU_CLASSES
from hpo_operator.cluster.kinds import WorkloadKind
from hpo_operator.cluster.prometheus import PrometheusSettings
from hpo_operator.resources import Resource
from hpo_operator.validation import faults_of

Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(Resource):
    """The installer's configuration."""

    namespaces: tuple[str, ...] = Field((), description="The namespaces to watch; all of them when empty.")
    workload_kinds: tuple[WorkloadKind, ...] = Field(
        (), max_length=32, description="Kinds beside batch/v1 Job that `template.object` may be of."
    )
    prometheus: PrometheusSettings | None = Field(None, description="Where metrics are read; nowhere when left out.")
    cleanup_image: str | None = Field(
        None, min_length=1, max_length=512, description="An image with `rm`, to remove checkpoints; the Trials' own when left out."
    )
    sdk_image: str | None = Field(
        None, min_length=1, max_length=512, description="An image with the SDK, to copy checkpoints; the Trials' own when left out."
    )
    max_pending: int | None = Field(
        None, ge=1, description="How many pods of all Studies together may wait to run; as many as they like when left out."
    )
    gpu_device_classes: tuple[str, ...] = Field(
        GPU_CLASSES, max_length=32, description="Device classes whose devices are GPUs, where a pod gets them by resource claims."
    )
    port: Port = Field(8080, description="Port of /metrics and /healthz; 0 for none.")
    resync_seconds: float = Field(600.0, gt=0, description="How often what may have been missed is compared with the API server.")


def read_settings(path: Path | None, flags: Mapping[str, Any]) -> Settings:
    """The settings in a YAML file, each replaced by its flag where that is given. Raises InvalidInput with every fault."""
    given: Any = {}
    if path is not None:
        try:
            given = yaml.safe_load(path.read_text()) or {}
        except OSError as error:
            raise InvalidInput([Fault(str(path), None, f"cannot be read: {error.strerror}")]) from None
        except yaml.YAMLError as error:
            raise InvalidInput([Fault(str(path), None, f"is no YAML: {error}")]) from None
        if not isinstance(given, Mapping):
            raise InvalidInput([Fault(str(path), None, "must be a mapping", "For example port: 8080.")])
    try:
        return Settings.model_validate_json(json.dumps({**given, **flags}), by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidInput(faults_of(error, Settings)) from None
