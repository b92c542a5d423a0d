# Users and roles while authentication is off: what is refused, then what is made.
etcdctl* auth status
etcdctl* user list
etcdctl* role list
etcdctl user get nobody
etcdctl user get nobody --detail
etcdctl user delete nobody
etcdctl user passwd nobody --interactive=false
< p
etcdctl user grant-role nobody nothing
etcdctl user revoke-role nobody nothing
etcdctl role get nothing
etcdctl role delete nothing
etcdctl role grant-permission nothing read k
etcdctl role grant-permission nothing readwrite k --prefix
etcdctl role grant-permission nothing write k --from-key
etcdctl role grant-permission nothing nonsense k
etcdctl role revoke-permission nothing k
etcdctl role revoke-permission nothing k --prefix
etcdctl role revoke-permission nothing k --from-key
etcdctl auth disable
etcdctl auth
etcdctl user add
etcdctl role add
etcdctl* role add r
etcdctl role add r
etcdctl* user add u:p
etcdctl user add u:p
etcdctl user add v --new-user-password p
etcdctl user add w --no-password
etcdctl user add x --interactive=false
< p
etcdctl user passwd u --interactive=false
< q
etcdctl user passwd w --interactive=false
< q
etcdctl* user list
etcdctl* role list
etcdctl user grant-role u nothing
etcdctl* user grant-role u r
etcdctl user grant-role u r
etcdctl user revoke-role v r
etcdctl* user get u
etcdctl user get u --detail
etcdctl* role grant-permission r readwrite k
etcdctl role grant-permission r read k
etcdctl role grant-permission r write k/ --prefix
etcdctl role grant-permission r readwrite m n
etcdctl role grant-permission r read z --from-key
etcdctl role grant-permission r read n m
etcdctl* role get r
etcdctl role revoke-permission r k/
etcdctl role revoke-permission r k/ --prefix
etcdctl role get r
etcdctl* auth status
etcdctl user get w
# On. The user root and its role are made first.
etcdctl user add root:r
etcdctl auth enable
etcdctl auth enable
etcdctl put k 1
etcdctl get k
etcdctl user list
etcdctl --user u:wrong get k
etcdctl --user nobody:p get k
gap: who guesses is not told that a user has no password
says: etcdserver: authentication failed, invalid user ID or password
etcdctl get k --user w:p
etcdctl --user u:q get k
etcdctl --user u:q put k 1
etcdctl --user u:q put m 1
etcdctl --user u:q put m 2 --prev-kv
etcdctl --user u:q put n 1
etcdctl --user u:q get m n
etcdctl --user u:q get m o
etcdctl --user u:q get z --from-key
etcdctl --user u:q get y --from-key
etcdctl --user u:q del m n
etcdctl --user u:q del m n --prev-kv
etcdctl --user u:q del k
etcdctl --user u:q txn
< mod("k") > "0"
<
< put m 1
<
< get n
<
etcdctl --user u:q txn
< mod("k") = "0"
<
< put m 1
<
< get m
<
etcdctl --user u:q compaction 1
etcdctl --user u:q user get u
etcdctl --user u:q user get v
etcdctl --user u:q role get r
etcdctl --user u:q role list
etcdctl --user u:q user add y:p
etcdctl --user u:q auth disable
etcdctl member list
etcdctl --user u:q alarm list
etcdctl --user u:q alarm disarm
etcdctl --user u:q endpoint hashkv
etcdctl --user u:q snapshot save $DIR/denied.db
# What is not about keys, by a user, by nobody, and by who shows what is no token.
L=etcdctl --user root:r lease grant 600
etcdctl --user root:r put m 1 --lease=$L
etcdctl --user u:q put k 1 --lease=$L
etcdctl --user u:q lease revoke $L
etcdctl --user u:q lease timetolive $L
etcdctl --user u:q lease timetolive $L --keys
etcdctl --user u:q lease keep-alive $L --once
etcdctl lease grant 60
etcdctl lease revoke $L
etcdctl lease timetolive $L --keys
etcdctl lease list
etcdctl --user u:q watch n
etcdctl --user u:q watch l --prefix
etcdctl watch k
etcdctl --user u:q elect n me
etcdctl --user u:q lock n
etcdctl --user u:q defrag
etcdctl --user u:q member add x --peer-urls=http://127.0.0.1:1
etcdctl --user u:q member remove 1
etcdctl --user u:q member update 1 --peer-urls=http://127.0.0.1:1
etcdctl --user u:q member promote 1
etcdctl --user u:q role add y
etcdctl --user u:q role grant-permission r read n
etcdctl --user u:q role revoke-permission r k
etcdctl --user u:q role delete r
etcdctl --user u:q role get root
etcdctl --user u:q user grant-role u root
etcdctl --user u:q user revoke-role u r
etcdctl --user u:q user delete v
etcdctl --user u:q user passwd u --interactive=false
< x
etcdctl --user u:q user get root
etcdctl --user u:q user list
etcdctl auth status
etcdctl auth disable
etcdctl user add y:p
etcdctl role list
etcdctl --user root:wrong user list
etcdctl --user root: user list
etcdctl --user root --password wrong user list
etcdctl --auth-jwt-token nonsense get k
etcdctl --auth-jwt-token nonsense put k 1
etcdctl --auth-jwt-token nonsense user list
# By root.
etcdctl --user root:r user list
etcdctl --user root --password r role list
etcdctl --user root:r user add u:p
etcdctl --user root:r user get nobody
etcdctl --user root:r user grant-role u nothing
etcdctl --user root:r user revoke-role u nothing
etcdctl --user root:r role get nothing
etcdctl --user root:r role add r
etcdctl --user root:r role revoke-permission r nothing
etcdctl --user root:r role grant-permission root read k
etcdctl --user root:r lease revoke $L
etcdctl --user root:r user delete nobody
etcdctl --user root:r put n 1
etcdctl --user root:r user delete root
etcdctl --user root:r user revoke-role root root
etcdctl --user root:r role delete root
etcdctl --user root:r role delete r
etcdctl --user u:q put m 1
etcdctl --user root:r user delete u
etcdctl --user u:q get m
etcdctl --user root:r auth disable
etcdctl get n
etcdctl user delete root
