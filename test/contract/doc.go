// Package contract runs the contract suite of api/apitest on every kind of node, put together as agent puts it together:
// a real member, real QUIC on loopback, a real queue on disk.
package contract
