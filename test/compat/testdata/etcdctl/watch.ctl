# watch, from past revisions and live.
etcdctl put a 1
etcdctl put a 2
etcdctl put b 1
etcdctl del a
etcdctl put ab 1
&one etcdctl watch a --rev 1
until one "DELETE\na\n\n"
stop one
&prefix etcdctl watch a --prefix --rev 2
until prefix "ab\n1\n"
stop prefix
&range etcdctl watch a b --rev 2
until range "ab\n1\n"
stop range
&prev etcdctl watch a --rev 2 --prev-kv
until prev "DELETE\na\n2\na\n\n"
stop prev
&json etcdctl -w json watch a --prefix --rev 2 --prev-kv
until json "\"YWI"
stop json
&fields etcdctl -w fields watch a --prefix --rev 2 --prev-kv
until fields "\"ab\"\n"
stop fields
&hex etcdctl --hex watch a --prefix --rev 2
until hex \x61\x62
stop hex
&all etcdctl watch "" --prefix --rev 1
until all "ab\n1\n"
stop all
&run etcdctl watch a --rev 2 --prev-kv -- sh -c "echo $$ETCD_WATCH_REVISION $$ETCD_WATCH_EVENT_TYPE $$ETCD_WATCH_KEY $$ETCD_WATCH_VALUE"
until run "DELETE\" \"a\" \"\"\n"
stop run
# Live: the progress notice says that the watch is there.
&live etcdctl watch -i
< watch live
< watch live/ --prefix
< progress
until live progress notify
etcdctl put live 1
until live "live\n1\n"
etcdctl del live
until live "DELETE\nlive\n\n"
etcdctl put live/a 2
until live "live/a\n2\n"
etcdctl put other 2
feed live watch other --rev 2
until live "other\n2\n"
feed live progress
until live progress notify: 10
feed live nonsense
until live Invalid command nonsense
feed live watch
until live Invalid command watch
stop live
&notify etcdctl watch ab --rev 6 --progress-notify
until notify "ab\n1\n"
stop notify
# One event each for what one transaction changes.
&txn etcdctl watch t --prefix --rev 11
etcdctl txn
< 
< put t1 a
< put t2 b
< del b
< put t3 c
< 
< 
until txn "t3\nc\n"
stop txn
# What a lease takes along, in one revision.
L=etcdctl lease grant 600
etcdctl put l2 b --lease $L
etcdctl put l1 a --lease $L
&lease etcdctl -w fields watch l --prefix --rev 12 --prev-kv
until lease l1
etcdctl lease revoke $L
until lease DELETE
stop lease
# From before a compaction, from the future, and what is refused.
etcdctl compaction 5
&compacted etcdctl watch a --rev 2
wait compacted
&edge etcdctl watch ab --rev 5
until edge "ab\n1\n"
stop edge
&future etcdctl watch future --rev 16
etcdctl put future too-early
etcdctl put future early
etcdctl put future now
until future "future\nnow\n"
stop future
etcdctl watch
etcdctl watch a b --prefix
etcdctl watch -i
etcdctl watch -i
< watch
