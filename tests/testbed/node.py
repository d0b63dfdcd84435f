"""The configuration of a real node: containerd, its network, kubelet, kube-proxy, names. Text only; `cluster.py` runs it."""

import json
from pathlib import Path
from typing import Any

import yaml

from .images import PAUSE
from .network import NODE_ADDRESS, POD_RANGE
from .packages import CNI_PLUGINS

NODE = "node-0"
DOMAIN = "cluster.local"


def containerd_configuration(folder: Path, socket: Path, networks: Path) -> str:
    """containerd's file. All its folders are below `folder`; the socket's path must be absolute."""
    return f"""\
version = 3
root = "{folder}/root"
state = "{folder}/state"

[grpc]
  address = "{socket}"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE}"

[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE runc dies with "can't get final child's PID from pipe" when it lowers a score.
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{CNI_PLUGINS}"]
    conf_dir = "{networks}"
"""


def network_configuration(leases: Path) -> str:
    """The CNI chain: every pod on one bridge, which is the gateway to the node's address and to the services."""
    return json.dumps(
        {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": POD_RANGE}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": str(leases),
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        },
        indent=2,
    )


def kubelet_configuration(folder: Path, socket: Path, cgroup: str) -> str:
    """The kubelet's file. A test machine is short of disk and knows no users: nothing is evicted, everything allowed."""
    return _dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": f"unix://{socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "clusterDNS": [NODE_ADDRESS],
            "clusterDomain": DOMAIN,
            "resolvConf": "",
            "podLogsDir": str(folder / "logs"),
            "volumePluginDir": str(folder / "plugins"),
            "nodeStatusUpdateFrequency": "2s",
            "serializeImagePulls": False,
        }
    )


def kube_proxy_configuration(kubeconfig: Path) -> str:
    """kube-proxy's file: service addresses by nftables; the connection table's size is not ours to set."""
    return _dump(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "mode": "nftables",
            "clusterCIDR": POD_RANGE,
            "conntrack": {"maxPerCore": 0},
            "hostnameOverride": NODE,
        }
    )


def dns_configuration(kubeconfig: Path) -> str:
    """CoreDNS' file: the names of services. It listens at the node's address, which is every pod's name server."""
    return f"""\
.:53 {{
    bind {NODE_ADDRESS}
    errors
    kubernetes {DOMAIN} {{
        kubeconfig {kubeconfig}
    }}
    cache 1
}}
"""


def _dump(configuration: dict[str, Any]) -> str:
    return yaml.safe_dump(configuration, sort_keys=False)
