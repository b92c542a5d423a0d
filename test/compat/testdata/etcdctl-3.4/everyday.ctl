# What scripts written for etcdctl 3.4 do all day.
etcdctl* put a 1
etcdctl put a 2 --prev-kv
etcdctl put b
< from standard input
etcdctl* get a
etcdctl* get "" --prefix
etcdctl get a c
etcdctl get a --rev 2
etcdctl get a --rev 99
etcdctl get "" --prefix --keys-only
etcdctl get "" --prefix --limit 1
etcdctl get "" --prefix --print-value-only
etcdctl get "" --from-key --sort-by MODIFY --order DESCEND
etcdctl get missing
etcdctl get ""
etcdctl* del b --prev-kv
etcdctl* del missing
etcdctl txn
< value("a") = "2"
< 
< put a 3
< get a
< 
< del a
< 
etcdctl txn
< mod("a") > "99"
< 
< put a 3
< 
< get a
< 
etcdctl txn
< 
< put a 1
< put a 2
< 
< 
etcdctl compaction 3
etcdctl compaction 3
etcdctl get a --rev 2
&w etcdctl watch a --prefix --rev 3 --prev-kv
etcdctl put a2 now
until w "a2\nnow\n"
log: only
stop w
&old etcdctl watch a --rev 2
wait old
L=etcdctl lease grant 100
etcdctl put leased 1 --lease $L
etcdctl lease timetolive $L --keys
etcdctl lease keep-alive --once $L
etcdctl lease list
etcdctl lease revoke $L
etcdctl lease revoke $L
etcdctl get leased
etcdctl lock l echo held
&holder etcdctl lock l
until holder l/
log: only
stop holder
&leader etcdctl elect e one
until leader "\none\n"
&listener etcdctl elect -l e
until listener "\none\n"
log: only
stop leader
log: only
stop listener
etcdctl -w json get "" --prefix
