package api

import (
	"context"
	"time"
)

// Devices makes and ends the tokens that devices show, and says what nodes may do for others. Who may ask is judged by the
// Backend behind it, by ByOf(ctx). Errors are *kv.Error. All methods may be called concurrently.
type Devices interface {
	// Create makes a token that the cluster knows once Create returns. The request has been checked for form.
	Create(ctx context.Context, r DeviceRequest) (CreatedDevice, error)
	// List returns the tokens of all devices, expired ones included, without their secrets.
	List(ctx context.Context) ([]DeviceInfo, error)
	// Revoke ends a token. An id that names none is KeyNotFound.
	Revoke(ctx context.Context, id string) error
	// SetScope limits what a node that is no member may do, or (nil) lets it do what its certificate allows.
	SetScope(ctx context.Context, node string, s *NodeScope) error
}

// The verbs of a device token.
const (
	VerbGet    = "get"
	VerbPut    = "put"
	VerbDelete = "delete"
	VerbWatch  = "watch"
)

// DeviceRequest says what a new token of a device allows.
type DeviceRequest struct {
	Name     string        // a label
	Allow    []string      // verbs
	Prefixes []string      // of keys, "" being every key
	TTL      time.Duration // 0: it does not expire
	Rate     uint32        // requests a second through one node, 0 for the node's own limit
	ShareKiB uint32        // of a node's queue, 0 for the node's own limit
}

// CreatedDevice is a new token, with the secret that nothing shows again.
type CreatedDevice struct {
	Token   string     `json:"token"`
	ID      string     `json:"id"`
	Expires *time.Time `json:"expires,omitempty"`
}

// DeviceInfo is what the cluster knows of a token of a device.
type DeviceInfo struct {
	ID       string     `json:"id"`
	Name     string     `json:"name"`
	Allow    []string   `json:"allow"`
	Prefixes []string   `json:"prefixes"`
	Expires  *time.Time `json:"expires,omitempty"`
	Rate     uint32     `json:"rate,omitempty"`
	ShareKiB uint32     `json:"share_kib,omitempty"`
	LastSeen *time.Time `json:"last_seen,omitempty"` // by a member or a proxy that is connected at present, since that started; asked of a proxy: by it
}

// NodeScope is what a node that is no member may do, beside what its certificate says.
type NodeScope struct {
	Roles    []string `json:"roles,omitempty"`    // of users for whom it may speak; none: of any but root
	Prefixes []string `json:"prefixes,omitempty"` // of keys; none: any
}
