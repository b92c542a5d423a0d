# Users and roles: none are there, and none can be made.
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
# What this version refuses.
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl auth enable
gap: users and roles are not there yet
says: Unimplemented desc = holdfast: users, roles and authentication are not in this version
etcdctl role add r
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
