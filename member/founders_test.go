package member

import "testing"

func TestFoundersThatWouldNotFindEachOtherAreRefused(t *testing.T) {
	const a, b = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
	good := Config{ClusterID: 1, ReplicaID: 1, NodeID: a, Peers: map[uint64]string{1: a, 2: b}, Network: alone{}}
	if err := good.checkPeers(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no cluster id":     func(c *Config) { c.ClusterID = 0 },
		"no replica id":     func(c *Config) { c.ReplicaID = 0 },
		"not among them":    func(c *Config) { c.ReplicaID = 3 },
		"another node":      func(c *Config) { c.NodeID = b },
		"no node id":        func(c *Config) { c.Peers = map[uint64]string{1: a, 2: ""} },
		"one node twice":    func(c *Config) { c.Peers = map[uint64]string{1: a, 2: a} },
		"replica id 0":      func(c *Config) { c.Peers = map[uint64]string{0: b, 1: a} },
		"no network at all": func(c *Config) { c.Network = nil },
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			change(&c)
			if err := c.checkPeers(); err == nil {
				t.Errorf("%+v was taken", c)
			}
		})
	}
}
