# make-mirror, to a second server of the same kind, until what was put has arrived.
etcdctl put m/a 1
etcdctl put m/b 2
etcdctl put n/a 3
etcdctl put m/a 4
&copy etcdctl make-mirror $DEST --prefix m/
&seen etcdctl --endpoints $DEST watch m/ --prefix --rev 1
until seen 4
until seen m/b
etcdctl put m/c live
until seen live
etcdctl del m/b
until seen "DELETE\nm/b\n\n"
stop copy
stop seen
etcdctl --endpoints $DEST get --prefix ""
&moved etcdctl make-mirror $DEST --prefix m/ --dest-prefix moved/ --rev 2 --max-txn-ops 2
&movedseen etcdctl --endpoints $DEST watch moved/ --prefix --rev 1
until movedseen live
etcdctl put m/d last
until movedseen "last\n"
stop moved
stop movedseen
&rooted etcdctl make-mirror $DEST --prefix m/ --no-dest-prefix --dest-insecure-transport
&rootedseen etcdctl --endpoints $DEST watch d --rev 1
until rootedseen "last\n"
stop rooted
stop rootedseen
etcdctl --endpoints $DEST get --prefix ""
etcdctl make-mirror
etcdctl make-mirror $DEST --prefix m/ --dest-prefix x --no-dest-prefix
untested: make-mirror --dest-cacert: the servers of this suite are without TLS
untested: make-mirror --dest-cert: the servers of this suite are without TLS
untested: make-mirror --dest-key: the servers of this suite are without TLS
# To one that asks who comes. For that end etcdctl does not look into the environment for a --dial-timeout, in which a password has
# to be checked: 2 s are not enough on a busy machine.
etcdctl --endpoints $DEST user add root:r
etcdctl --endpoints $DEST auth enable
etcdctl make-mirror $DEST --prefix m/ --dest-prefix guarded/ --dest-user root:wrong --dial-timeout 20s
etcdctl make-mirror $DEST --prefix m/ --dest-prefix guarded/ --dest-user root --dest-password wrong --dial-timeout 20s
&guarded etcdctl make-mirror $DEST --prefix m/ --dest-prefix guarded/ --dest-user root --dest-password r
&guardedseen etcdctl --endpoints $DEST --user root:r watch guarded/ --prefix --rev 1
until guardedseen "last\n"
stop guarded
stop guardedseen
etcdctl --endpoints $DEST --user root:r get --prefix guarded/
