# What operators look at.
etcdctl put a 1
etcdctl** endpoint health
etcdctl** endpoint status
etcdctl endpoint hashkv
etcdctl** member list
etcdctl alarm list
etcdctl alarm disarm
etcdctl defrag
etcdctl snapshot save $DIR/snap.db
gap: adding members over etcd's API is not there yet
says: Error:
etcdctl member add other --peer-urls http://127.0.0.1:1 --command-timeout 1s
