# A minute of load. How fast it is does not count, that it ends and cleans up does.
limit: 2m
etcdctl check perf --auto-compact --auto-defrag --load s --prefix /perf/
etcdctl -w json get --prefix /perf/ --count-only
etcdctl check perf --load nonsense
