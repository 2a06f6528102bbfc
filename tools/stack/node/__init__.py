"""A real node: containerd, kubelet, kube-proxy and a network policy engine in Linux namespaces of their own.

All processes of a node are in one PID namespace: when its first process ends, in order or because the tool that started
it was killed, the kernel ends the others, and with the last of them go its mounts and its network. Only its cgroups
stay, and are removed by whoever stops the node or starts the next one. Nothing here touches the machine's own network:
control plane, hub and tool are in a network namespace too, the laboratory (``lab``).
"""
