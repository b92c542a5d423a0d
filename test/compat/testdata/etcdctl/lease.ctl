# Leases. Times that remain are not compared, everything else is.
etcdctl* lease list
L=etcdctl lease grant 100
etcdctl* lease list
etcdctl* lease timetolive $L
etcdctl put a 1 --lease $L
etcdctl put b 1 --lease $L
etcdctl* lease timetolive $L --keys
etcdctl* lease keep-alive --once $L
etcdctl put b 2
etcdctl* lease timetolive $L --keys
M=etcdctl lease grant 200
etcdctl put b 3 --lease $M
etcdctl put b 4 --lease $L
etcdctl* lease timetolive $M --keys
etcdctl* lease timetolive $L --keys
etcdctl lease revoke $M
etcdctl lease revoke $M
etcdctl* lease timetolive $M
etcdctl* lease timetolive 1234
etcdctl lease keep-alive --once 1234
etcdctl lease keep-alive 1234
etcdctl lease revoke 1234
etcdctl lease revoke nonsense
etcdctl lease revoke
etcdctl lease timetolive
etcdctl lease timetolive nonsense
etcdctl lease keep-alive
etcdctl lease grant
etcdctl lease grant nonsense
etcdctl lease grant 0
etcdctl lease grant -- -5
etcdctl lease grant 9000000001
etcdctl lease grant 9000000000
etcdctl -w json get "" --prefix
&alive etcdctl lease keep-alive $L
until alive keepalived
stop alive
etcdctl -w json lease revoke $L
etcdctl -w json get "" --prefix
# One that runs out.
S=etcdctl lease grant 5
etcdctl put short 1 --lease $S
&gone etcdctl watch short --rev 8
until gone "DELETE\nshort\n\n"
stop gone
etcdctl lease timetolive $S --keys
etcdctl -w json get short
etcdctl -w fields lease grant 100
etcdctl -w json lease grant 100
J=etcdctl lease grant 100
etcdctl -w fields lease revoke $J
