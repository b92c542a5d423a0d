# del, of one key and of ranges.
etcdctl put a 1
etcdctl put a1 2
etcdctl put a2 3
etcdctl put b 4
etcdctl put c 5
etcdctl* del missing
etcdctl del a
etcdctl* get a
etcdctl put a 1
etcdctl -w json del a --prev-kv
etcdctl put a 1
etcdctl -w fields del a --prev-kv
etcdctl del a --prev-kv
etcdctl* del a --prefix --prev-kv
etcdctl -w json get "" --prefix
etcdctl put a1 2
etcdctl put a2 3
etcdctl del a1 a2
etcdctl -w json get "" --prefix
etcdctl del a2 a1
etcdctl put a1 2
etcdctl -w json del a1 c --range --prev-kv
etcdctl put a1 2
etcdctl del b --from-key
etcdctl -w json get "" --prefix
etcdctl put z 2
etcdctl del "" --prefix
etcdctl -w json get "" --prefix
etcdctl put z 2
etcdctl del "" --from-key --prev-kv
etcdctl del a --prefix --from-key
etcdctl del a --range
etcdctl del a b --prefix
etcdctl del a b --from-key
etcdctl del
etcdctl del ""
etcdctl -w json del nothing
etcdctl -w json put last x
