# What a lone member says about itself, and maintenance.
etcdctl put a 1
etcdctl put a 2
etcdctl** endpoint health
etcdctl** endpoint health --cluster
etcdctl** endpoint status
etcdctl** endpoint status --cluster
etcdctl** endpoint hashkv
etcdctl** endpoint hashkv --rev 2
etcdctl** endpoint hashkv --cluster
etcdctl endpoint hashkv --rev 99
etcdctl** member list
etcdctl member list --consistency s
etcdctl member list extra
etcdctl* alarm list
etcdctl* alarm disarm
etcdctl alarm list extra
etcdctl* defrag
etcdctl defrag --cluster
etcdctl move-leader
etcdctl move-leader nonsense
etcdctl move-leader 1234
etcdctl snapshot save $DIR/snap.db
etcdctl snapshot save
etcdctl compaction 3
etcdctl endpoint hashkv --rev 2
etcdctl endpoint hashkv -w json
etcdctl -w json get a
etcdctl member remove 1234 --command-timeout 1s
gap: peers are found by the agent's own transport, not by URLs
says: Error:
etcdctl member update 1234 --peer-urls http://127.0.0.1:1 --command-timeout 1s
gap: adding members over etcd's API is not there yet
says: Error:
etcdctl member add other --learner --peer-urls http://127.0.0.1:2 --command-timeout 1s
etcdctl member promote 1234 --command-timeout 1s
etcdctl member add
etcdctl member remove
etcdctl member update
etcdctl member promote
etcdctl member add x
etcdctl member remove nonsense --command-timeout 1s
gap: there is no older format to go down to
says: Error:
etcdctl downgrade validate 3.6.0 --command-timeout 1s
gap: there is no older format to go down to
says: Error:
etcdctl downgrade enable 3.6.0 --command-timeout 1s
etcdctl downgrade cancel
etcdctl downgrade validate
etcdctl downgrade enable
# The last row: the second voter never comes, so that etcd has no quorum from here on.
gap: adding members over etcd's API is not there yet
says: Error:
etcdctl member add other --peer-urls http://127.0.0.1:1 --command-timeout 1s
