# Locks and elections: who holds it, who waits, and what they leave behind. The leases outlive the test: a count of leases
# that run out meanwhile would depend on how fast the machine is.
&first etcdctl lock l --ttl 300
until first l/
&second etcdctl lock l --ttl 300
log: only
stop first
until second l/
log: only
stop second
etcdctl lock l --ttl 300 echo held
etcdctl lock l --ttl 300 -- sh -c "exit 3"
etcdctl lock l --ttl 300 -- sh -c "test -n \"$$ETCD_LOCK_KEY\" && test -n \"$$ETCD_LOCK_REV\" && echo both"
etcdctl lock
etcdctl lock l --ttl 300 no-such-command
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
