# Locks and elections: who holds it, who waits, and what they leave behind.
&first etcdctl lock l
until first l/
&second etcdctl lock l --ttl 60
log: only
stop first
until second l/
log: only
stop second
etcdctl lock l echo held
etcdctl lock l --ttl 5 -- sh -c "exit 3"
etcdctl lock l sh -c "test -n \"$$ETCD_LOCK_KEY\" && test -n \"$$ETCD_LOCK_REV\" && echo both"
etcdctl lock
etcdctl lock l no-such-command
etcdctl -w json get l --prefix
etcdctl lease list
&leader etcdctl elect e one
until leader "\none\n"
&listener etcdctl elect -l e
until listener "\none\n"
&candidate etcdctl elect e two
log: only
stop leader
until candidate "\ntwo\n"
until listener "\ntwo\n"
log: only
stop candidate
log: only
stop listener
etcdctl elect
etcdctl elect e
etcdctl elect -l e proposal
etcdctl -w json get e --prefix
etcdctl lease list
&f etcdctl -w fields lock l
until f Version
log: only
stop f
