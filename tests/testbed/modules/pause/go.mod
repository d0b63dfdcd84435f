// What holds a pod's network namespace on the real node.
module hpo.dev/testbed/pause

go 1.26.0
