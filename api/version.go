package api

// What clients of etcd are told about the version: they decide by it what they may ask for. It is that of etcd's API as
// it is spoken, not of this program.
const (
	EtcdVersion        = "3.7.3"
	EtcdClusterVersion = "3.7.0"
)
