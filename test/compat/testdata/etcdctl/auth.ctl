# Users and roles: what is listed is empty, what would turn them on is refused.
etcdctl* auth status
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl auth enable
etcdctl* user list
etcdctl* role list
etcdctl user get nobody
etcdctl role get nothing
etcdctl user delete nobody
etcdctl role delete nothing
etcdctl auth disable
etcdctl user add
etcdctl role add
# What this version refuses. With etcd each would work.
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl role add r
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl role grant-permission r read k
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl role grant-permission r readwrite k --prefix
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl role grant-permission r write k --from-key
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl role revoke-permission r k
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl role revoke-permission r k --prefix
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl role revoke-permission r k --from-key
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl role get r
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl user add u:p
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl user add v --new-user-password p
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl user add w --no-password
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl user add x --interactive=false
< p
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl user passwd u --interactive=false
< p
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl user grant-role u r
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl user get u --detail
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl user revoke-role u r
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl user delete u
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl role delete r
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl user add root:p
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl role add root
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl user grant-role root root
etcdctl auth
