# put, in every way, and what it answers.
etcdctl* put a 1
etcdctl* put a 2 --prev-kv
etcdctl put b ""
etcdctl* get b
etcdctl put c
< from standard input
etcdctl* get c
etcdctl put -- -dash -value
etcdctl get -- -dash
etcdctl put "with space" "a \"quoted\" value"
etcdctl get "with space"
etcdctl put "\x01\xff" "\xfe\xfd"
etcdctl --hex get "\x01\xff"
etcdctl --hex -w json get "\x01\xff"
etcdctl --hex -w fields get "\x01\xff"
etcdctl put a other --ignore-value
etcdctl put a --ignore-value
etcdctl* get a
L=etcdctl lease grant 600
etcdctl put leased v --lease $L
etcdctl* get leased
etcdctl put leased v2 --ignore-lease
etcdctl* get leased
etcdctl put leased v3
etcdctl -w fields get leased
etcdctl put leased --ignore-value --lease $L
etcdctl -w fields get leased
etcdctl put leased v3 --ignore-lease --prev-kv
etcdctl put missing --ignore-value
etcdctl put missing v --ignore-lease
etcdctl put missing v --lease 1234
etcdctl put a v --lease nonsense
etcdctl put a v --ignore-lease --lease $L
etcdctl put
etcdctl put a b c
etcdctl put "" v
etcdctl put a v --no-such-flag
# The limit on a request, just below and above.
etcdctl put big
<* 1500000
etcdctl -w json get big --keys-only
etcdctl put too-big
<* 1600000
etcdctl -w json get too-big
etcdctl put much-too-big
<* 2200000
etcdctl -w json get --prefix ""
