package api

import (
	"context"
	"time"
)

// Nodes lists the members and proxies of the cluster and shuts one out. It is an operator's: the administration socket
// has it and no other listener. Errors are *kv.Error. All methods may be called concurrently.
type Nodes interface {
	// List returns every node that has joined and every one that was revoked, ordered by name. What is live in it is
	// gathered from the members when it is called; Missing says what could not be asked.
	List(ctx context.Context) (NodeList, error)
	// Revoke shuts a node out for good, by id, or by name if only one has it: KeyNotFound, or Invalid for several.
	Revoke(ctx context.Context, name string) (RevokedNode, error)
}

// NodeList is the body of GET /v1/nodes.
type NodeList struct {
	Nodes   []NodeInfo `json:"nodes"`
	Missing []string   `json:"missing,omitempty"` // why the list is not as of now
}

// The states of a node in a list.
const (
	NodeHere      = "here"      // the member that was asked
	NodeConnected = "connected" // it has a link, over which something came lately
	NodeLost      = "lost"      // it has a link and nothing comes back
	NodeAway      = "away"      // it has none
	NodeRevoked   = "revoked"
)

// NodeInfo is one node. What is not known is absent.
type NodeInfo struct {
	ID               string     `json:"id"`
	Name             string     `json:"name"`
	Role             string     `json:"role"`
	State            string     `json:"state"`
	Version          string     `json:"version,omitempty"`
	Via              string     `json:"via,omitempty"` // name of the member that it is connected to, or was last
	Address          string     `json:"address,omitempty"`
	RTTMillis        float64    `json:"rtt_ms,omitempty"`
	Loss             *float64   `json:"loss,omitempty"`           // share of what the member sends it that is lost, of late
	Way              string     `json:"way,omitempty"`            // udp, or tcp where that does not get through
	BytesSent        uint64     `json:"bytes_sent,omitempty"`     // by the member, since the connection was opened
	BytesReceived    uint64     `json:"bytes_received,omitempty"` // by the member
	Revision         int64      `json:"revision,omitempty"`
	Lag              *int64     `json:"lag,omitempty"` // revisions behind the newest that any node reports
	AgeSeconds       *float64   `json:"age_seconds,omitempty"`
	QueueDepth       *int       `json:"queue_depth,omitempty"`
	QueueBytes       int64      `json:"queue_bytes,omitempty"`
	KeepAliveSeconds float64    `json:"keep_alive_seconds,omitempty"` // how often its links speak at rest, as it has measured on its network
	KeepAliveShort   bool       `json:"keep_alive_short,omitempty"`   // a NAT forgets it even sooner
	LastSeen         *time.Time `json:"last_seen,omitempty"`          // since the members asked have started
	Joined           *time.Time `json:"joined,omitempty"`
	Scope            []string   `json:"scope,omitempty"`             // of a proxy
	CertificateSince *time.Time `json:"certificate_since,omitempty"` // when it was given its newest certificate, and so was there
	CertificateUntil *time.Time `json:"certificate_until,omitempty"`
	CA               string     `json:"ca,omitempty"` // hash of the CA of its newest certificate
	Revoked          *time.Time `json:"revoked,omitempty"`
}

// RevokedNode is what was shut out.
type RevokedNode struct {
	ID   string    `json:"id"`
	Name string    `json:"name"`
	Role string    `json:"role"`
	At   time.Time `json:"at"`
	Note string    `json:"note,omitempty"` // what else to do
}

// Certificates shows and renews this node's certificate and, on a member, replaces the cluster's CA. It is an operator's,
// as Nodes is.
type Certificates interface {
	// Certificate answers from memory.
	Certificate() CertificateInfo
	// Renew gets this node a new certificate now.
	Renew(ctx context.Context) (CertificateInfo, error)
	// Rotate has another CA take the place of the present one.
	Rotate(ctx context.Context, r CARotation) (CertificateInfo, error)
	// Finish drops the CA that is being replaced; unless force is set it is refused while nodes still need it.
	Finish(ctx context.Context, force bool) (CertificateInfo, error)
}

// CARotation says how a CA is replaced.
type CARotation struct {
	PEM     []byte        // key and certificate of the new CA; nil: one is made
	Overlap time.Duration // how long the old one is still trusted; 0: the default
}

// CertificateInfo is the body of GET /v1/cert.
type CertificateInfo struct {
	Node    string     `json:"node"`
	Joined  bool       `json:"joined"`
	Cluster string     `json:"cluster,omitempty"`
	Role    string     `json:"role,omitempty"`
	Scope   []string   `json:"scope,omitempty"`
	Serial  string     `json:"serial,omitempty"`
	Issuer  string     `json:"issuer,omitempty"` // hash of the CA, as in tokens
	Issued  *time.Time `json:"issued,omitempty"`
	Until   *time.Time `json:"until,omitempty"`
	Renewal *time.Time `json:"renewal,omitempty"` // when it is renewed
	Judged  time.Time  `json:"judged"`            // the time by which this node judges certificates
	CAs     []CAInfo   `json:"cas,omitempty"`     // trusted here, the one that issues first
}

// CAInfo is a CA that a node trusts.
type CAInfo struct {
	Hash    string     `json:"hash"`
	Ends    time.Time  `json:"ends"`
	KeyHeld bool       `json:"key_held"`          // this member can issue with it
	PEM     string     `json:"pem"`               // its certificate, by which clients trust https listeners with tls.auto
	Dropped *time.Time `json:"dropped,omitempty"` // when it will be, of one that is being replaced
}
