// Package truth holds every view that devices have of a cluster against what happened there: in virtual time, hours of it,
// with real stores, uplinks over QUIC on a simulated network, proxies and queues on real disks, while links are cut, members
// and proxies are killed, the cluster is restored from a backup, history is compacted and disks are rolled back.
//
// What must hold: every 200 and 202 is accounted for exactly once, no age is too young, no revision goes back, no watch has a
// gap. Planted faults show that each of the four checks can fail. What fell under the lies of others is in lies_test.go.
package truth
