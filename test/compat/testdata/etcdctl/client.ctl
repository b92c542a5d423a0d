# What etcdctl does by itself. It is here so that each command has a row.
etcdctl version
etcdctl help
etcdctl help get
etcdctl options
etcdctl completion bash
etcdctl nonsense
etcdctl get a --write-out nonsense
