// Package memberlist stands in for a gossip that is never started: it has the names that dragonboat compiles against, and Create
// returns ErrAbsent. Without a Memberlist none of the other methods can be reached.
package memberlist

import (
	"errors"
	"log"
	"time"
)

// ErrAbsent is what Create returns.
var ErrAbsent = errors.New("memberlist is not part of this program")

// Memberlist is never made.
type Memberlist struct{}

// Create returns ErrAbsent.
func Create(*Config) (*Memberlist, error) { return nil, ErrAbsent }

// Join returns ErrAbsent, as all methods do that can.
func (*Memberlist) Join([]string) (int, error) { return 0, ErrAbsent }

// Leave returns ErrAbsent.
func (*Memberlist) Leave(time.Duration) error { return ErrAbsent }

// Shutdown returns ErrAbsent.
func (*Memberlist) Shutdown() error { return ErrAbsent }

// Members is empty.
func (*Memberlist) Members() []*Node { return nil }

// NumMembers is 0.
func (*Memberlist) NumMembers() int { return 0 }

// LocalNode is nobody.
func (*Memberlist) LocalNode() *Node { return &Node{} }

// Config is for Create.
type Config struct {
	AdvertiseAddr    string
	AdvertisePort    int
	BindAddr         string
	BindPort         int
	Delegate         Delegate
	Events           EventDelegate
	GossipInterval   time.Duration
	GossipNodes      int
	Logger           *log.Logger
	Name             string
	ProbeInterval    time.Duration
	PushPullInterval time.Duration
	UDPBufferSize    int
}

// DefaultWANConfig is an empty Config.
func DefaultWANConfig() *Config { return &Config{} }

// Node is one of the others.
type Node struct {
	Name string
	Meta []byte
}

// Address is empty.
func (*Node) Address() string { return "" }

// NodeEventType is what happened to a Node.
type NodeEventType int

// The events.
const (
	NodeJoin NodeEventType = iota
	NodeLeave
	NodeUpdate
)

// Delegate is never called.
type Delegate interface {
	NodeMeta(limit int) []byte
	NotifyMsg(b []byte)
	GetBroadcasts(overhead, limit int) [][]byte
	LocalState(join bool) []byte
	MergeRemoteState(b []byte, join bool)
}

// EventDelegate is never called.
type EventDelegate interface {
	NotifyJoin(n *Node)
	NotifyLeave(n *Node)
	NotifyUpdate(n *Node)
}
