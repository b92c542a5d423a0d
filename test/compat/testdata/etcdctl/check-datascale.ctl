# Ten thousand keys of a kilobyte.
limit: 2m
etcdctl check datascale --auto-compact --auto-defrag --load s --prefix /data/
etcdctl get --prefix /data/ --count-only -w fields
etcdctl check datascale --load nonsense
