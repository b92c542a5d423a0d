# Compaction, and what is left to be read.
etcdctl put a 1
etcdctl put a 2
etcdctl put a 3
etcdctl put b 1
etcdctl del b
etcdctl put c 1
etcdctl compaction 4
etcdctl get a --rev 3
etcdctl get a --rev 4
etcdctl get b --rev 5
etcdctl -w json get "" --prefix --rev 5
etcdctl compaction 4
etcdctl compaction 3
etcdctl compaction 99
etcdctl compaction 0
etcdctl compaction -- -1
etcdctl compaction nonsense
etcdctl compaction
etcdctl compaction 1 2
etcdctl compaction 6 --physical
etcdctl compaction 7 --physical
etcdctl compaction 7
etcdctl get a --rev 6
etcdctl -w json get "" --prefix --rev 7
etcdctl -w json get "" --prefix
etcdctl put a 4
etcdctl -w json get a
etcdctl txn
< 
< get a --rev 2
< 
< 
