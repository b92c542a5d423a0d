// Package config is the settings of an agent: what can be set, from where, and whether it makes sense.
//
// Config is the one description. Flags, environment names, file keys, defaults, checks, help texts, the sample file and
// the reference page are all derived from its struct tags, so a new setting is a new field and nothing else:
//
//	mapstructure  the key in a file; flag and environment names derive from it
//	default       the default as text; "none" is a zero that means no limit or no value
//	help          the sentence users read in --help, in the sample file and on the reference page
//	oneof         the values allowed, separated by commas
//	min, max      the bounds allowed, in the field's own notation
//	shown         how the default is described when it depends on the machine
//	reload        "yes" if a HUP takes it over without a restart
//	from          "env" if it is a secret that comes from the environment only
//	check         the name of a further check, see check.go
//	often         "yes" if it is among the flags that --help shows first
//	title         of a section: what its flags are about
//	required      "yes" if an entry of a list must have it
//
// Load puts the layers together and reports every fault that it finds, not just the first.
package config

import "time"

// Config is everything that can be set. A Config from Load is complete and has passed every check that needs no network;
// whether it suits the data directory is for the agent to judge. It is a value: copy it, compare it with Compare.
type Config struct {
	Mode          Mode     `mapstructure:"mode" often:"yes" default:"auto" oneof:"auto,member,proxy" help:"what this node is to be; auto goes on as the data directory records, and makes an empty one a member; there a proxy needs join and a token"`
	Name          string   `mapstructure:"name" often:"yes" shown:"the host name" check:"label" help:"label of this node in status and logs; not an identity"`
	DataDir       string   `mapstructure:"data-dir" often:"yes" default:"holdfast.data" check:"path" help:"directory of everything this node stores; one agent each"`
	Listen        []string `mapstructure:"listen" often:"yes" default:"http://127.0.0.1:2379,http://[::1]:2379" check:"urls" help:"URLs on which clients are served, http://host:port or unix:///path; the default leaves out ::1 on a machine without IPv6"`
	Socket        string   `mapstructure:"socket" shown:"agent.sock in the data directory" check:"socket" help:"unix socket for administration, mode 0660; a path of at most 107 bytes"`
	PeerListen    string   `mapstructure:"peer-listen" default:":2380" check:"udp" help:"UDP address for other nodes; a proxy takes any port instead of the default until it is promoted, and serves others (--join=proxy:host:port) only where one is named"`
	PeerAdvertise []string `mapstructure:"peer-advertise" check:"peers" help:"addresses, as host:port, at which other nodes can reach this one; they are told to those that join"`
	MetricsListen string   `mapstructure:"metrics-listen" shown:"on the client URLs" check:"url" help:"URL of a listener of its own for metrics and health"`
	Join          []string `mapstructure:"join" often:"yes" check:"join" help:"addresses, as host:port, of any nodes of the cluster to join, or srv:NAME for those that the SRV record _holdfast._udp.NAME lists; proxy:host:port is a proxy that this one is to be behind; once joined it is where a member looks for the others when it has lost them all"`
	TokenFile     string   `mapstructure:"token-file" often:"yes" check:"file" help:"file with the join token, made by agent token create on a member; once joined it is where a member looks for the others when it has lost them all"`
	Token         Secret   `mapstructure:"token" from:"env" help:"the join token; token-file wins over it"`
	SealFile      string   `mapstructure:"seal-file" check:"file" help:"file with a secret of 16 to 4096 random bytes by which this node's keys are sealed on disk, best a credential of systemd's bound to a TPM; set for a data directory that has keys, the next start seals them"`
	Fallback      string   `mapstructure:"fallback" oneof:"proxy,none" shown:"proxy in auto, none in member" help:"what to become when the cluster needs no more members, or has removed this one"`
	Insecure      bool     `mapstructure:"insecure" often:"yes" default:"false" help:"allow plaintext http beyond loopback"`
	LogLevel      string   `mapstructure:"log-level" often:"yes" default:"info" oneof:"debug,info,warn,error" reload:"yes" help:"least severe log line to write"`
	LogFormat     string   `mapstructure:"log-format" default:"auto" oneof:"auto,journal,text,json" help:"form of log lines; auto is journal under systemd, text on a terminal, else json"`

	TLS     TLS     `mapstructure:"tls" title:"https"`
	Cluster Cluster `mapstructure:"cluster" title:"a cluster that is made here"`
	Proxy   Proxy   `mapstructure:"proxy" title:"the cache of a proxy"`
	Queue   Queue   `mapstructure:"queue" title:"the queue"`
	Store   Store   `mapstructure:"store" title:"the store of a member"`
	Link    Link    `mapstructure:"link" title:"links to other nodes"`
	Limits  Limits  `mapstructure:"limits" title:"limits for clients"`
	CORS    CORS    `mapstructure:"cors" title:"web pages"`
	Auth    Auth    `mapstructure:"auth" title:"authentication"`
	Audit   Audit   `mapstructure:"audit" title:"the record of changes"`
	Trace   Trace   `mapstructure:"trace" title:"traces"`
}

// Trace is where the spans of requests go.
type Trace struct {
	Endpoint string `mapstructure:"endpoint" check:"collector" help:"URL of a collector that takes OpenTelemetry's spans over HTTP (OTLP), as http://127.0.0.1:4318; without it nothing is traced"`
	OneIn    int    `mapstructure:"one-in" default:"1000" min:"0" help:"of the requests that bring no traceparent one in so many is traced; 0 traces only those that bring one"`
}

// Mode is what a node is to be.
type Mode string

// The modes.
const (
	ModeAuto   Mode = "auto"
	ModeMember Mode = "member"
	ModeProxy  Mode = "proxy"
)

// TLS is for https listeners. The files are looked at while the agent runs, and on a HUP: new contents are taken over, a
// broken file is not.
type TLS struct {
	CertFile     string   `mapstructure:"cert-file" check:"file" help:"PEM certificate chain of the https listeners; a new one is taken over while the agent runs"`
	KeyFile      string   `mapstructure:"key-file" check:"file" help:"PEM private key of the https listeners, mode 0600 or 0640"`
	ClientCAFile string   `mapstructure:"client-ca-file" check:"file" help:"PEM certificates of the CAs that sign client certificates; set, clients of https must have one"`
	ClientAuth   string   `mapstructure:"client-auth" default:"require" oneof:"require,optional" help:"whether a client of https must have a certificate; of use with tls.client-ca-file only. One that is shown is judged in either case"`
	CRLFile      string   `mapstructure:"crl-file" check:"file" help:"revocation lists of the CAs of clients, PEM or DER; a client that is on one is refused, and cut off if it is connected"`
	MinVersion   string   `mapstructure:"min-version" default:"tls1.3" oneof:"tls1.3,tls1.2" help:"oldest version of TLS that https listeners speak"`
	Auto         bool     `mapstructure:"auto" default:"false" help:"let the cluster's CA issue the certificate of the https listeners; agent cert ca shows what clients trust it by"`
	Names        []string `mapstructure:"names" check:"names" help:"further host names and addresses for the certificate of tls.auto, which has the host name, name and the addresses of this machine anyway"`
}

// Cluster seeds replicated values when a cluster is made; afterwards what is replicated counts.
type Cluster struct {
	Voters       int           `mapstructure:"voters" default:"3" min:"1" max:"7" help:"number of voting members wanted when a cluster is made"`
	ReplaceAfter time.Duration `mapstructure:"replace-after" default:"10m" min:"0s" max:"8760h" help:"how long a voting member may be out of reach before the next box that joins may take its place, in a cluster that is made now; 0s keeps its place until it is removed"`
	CAFile       string        `mapstructure:"ca-file" check:"file" help:"PEM file with key and certificate of a CA of one's own, for the cluster that is made here; without it one is made too. Not needed afterwards"`
}

// Proxy is what a proxy caches and how long that is good.
type Proxy struct {
	Prefixes     []string      `mapstructure:"prefixes" often:"yes" check:"mirrors" help:"key prefixes that the cache mirrors; other keys are cached once they are read"`
	MaxBytes     Size          `mapstructure:"max-bytes" default:"64MiB" min:"1MiB" help:"largest size of the cache"`
	MaxAge       time.Duration `mapstructure:"max-age" default:"5s" help:"age up to which a cached value is served without asking"`
	StaleIfError time.Duration `mapstructure:"stale-if-error" default:"168h" help:"age up to which a cached value is served while the uplink is lost"`
	ReadOnly     bool          `mapstructure:"read-only" default:"false" help:"refuse writes"`
	Namespace    string        `mapstructure:"namespace" check:"namespace" help:"show clients only the keys that begin with this, without it; needs mode proxy. Other settings name keys as the cluster does"`
}

// Queue is what happens to writes while the cluster is out of reach. What a prefix leaves empty is taken from here.
type Queue struct {
	Prefixes       []QueuePrefix `mapstructure:"prefixes" often:"yes" check:"queued" help:"key prefixes whose writes may be queued, each as text or as a map of prefix, lane, guard, on-full, max-bytes and expires; the longest one that fits wins"`
	Lane           string        `mapstructure:"lane" default:"normal" oneof:"high,normal,bulk" help:"urgency of queued writes"`
	Guard          string        `mapstructure:"guard" default:"seen" oneof:"seen,none" help:"whether a queued write yields to a newer one by somebody else"`
	OnFull         string        `mapstructure:"on-full" default:"reject" oneof:"reject,coalesce,drop-oldest" help:"what a full queue does: refuse the write, keep only the newest unsent write of each key, or give up the oldest unsent ones under the prefix"`
	MaxBytes       Size          `mapstructure:"max-bytes" default:"256MiB" min:"1MiB" help:"largest size of the queue, where each write counts its key, its value and 192 B, what it takes in memory; beyond it writes are refused"`
	DiskReserve    Reserve       `mapstructure:"disk-reserve" default:"10%" help:"free disk space that the queue leaves, a size or a share of at most 1GiB"`
	Expires        time.Duration `mapstructure:"expires" default:"none" min:"1s" help:"age at which a queued write is given up"`
	DeviceMaxBytes Size          `mapstructure:"device-max-bytes" default:"none" help:"most that the queued writes of one client may take; beyond it they are answered with 429"`
	DrainRate      int           `mapstructure:"drain-rate" default:"none" min:"0" help:"most queued writes sent per second"`
}

// QueuePrefix is one entry of queue.prefixes, which is a plain string when only the prefix matters.
type QueuePrefix struct {
	Prefix   string        `mapstructure:"prefix" required:"yes"`
	Lane     string        `mapstructure:"lane" oneof:"high,normal,bulk"`
	Guard    string        `mapstructure:"guard" oneof:"seen,none"`
	OnFull   string        `mapstructure:"on-full" oneof:"reject,coalesce,drop-oldest"`
	Expires  time.Duration `mapstructure:"expires" min:"1s"`
	MaxBytes Size          `mapstructure:"max-bytes"`
}

// Store is how a member keeps its data.
type Store struct {
	History     time.Duration `mapstructure:"history" default:"10m" help:"how long superseded revisions stay readable; 0 keeps them until a client compacts, as etcd does"`
	Quota       Size          `mapstructure:"quota" default:"2GiB" min:"32KiB" help:"size of the stored data on this member at which writes are refused on all, until keys are deleted and compacted; etcd's default is the same"`
	Flush       time.Duration `mapstructure:"flush" default:"30s" min:"100ms" max:"10m" help:"longest time between writing applied changes to the state file; the log has them before"`
	DiskReserve Size          `mapstructure:"disk-reserve" default:"256MiB" min:"1MiB" help:"free disk space below which writes are refused; left at its default it is at most an eighth of the disk"`
}

// Link is how the connections to other nodes spend bytes.
type Link struct {
	Redundancy string   `mapstructure:"redundancy" default:"auto" oneof:"auto,off" help:"whether members send small messages to each other in copies as far as a link loses packets; off saves those bytes, and a packet that is lost costs round trips"`
	TCP        string   `mapstructure:"tcp" default:"auto" oneof:"auto,off" help:"whether other nodes are reached over TCP, and may come over it, where UDP does not get through; the port is that of peer-listen"`
	BulkRate   Size     `mapstructure:"bulk-rate" default:"none" min:"1KiB" reload:"yes" help:"most bytes a second that snapshots to other members take of this node's links, all together; small messages go first in any case"`
	BulkHours  []string `mapstructure:"bulk-hours" check:"hours" reload:"yes" help:"hours of the day, as 22:00-06:00 in the time zone of this machine, in which link.bulk-rate does not hold"`
	Budget     Size     `mapstructure:"budget" default:"none" min:"1MiB" help:"bytes that the links to other nodes may carry in a day of UTC, both ways together; once they are used up mirrors are not fed and no copies are sent against loss, while writes, the queue and single reads go on"`
}

// Limits is what a client may ask for. gRPC clients are held to Request only, as etcd does.
type Limits struct {
	Value          Size          `mapstructure:"value" default:"1MiB" min:"1KiB" max:"8MiB" help:"largest value of a REST request"`
	Key            Size          `mapstructure:"key" default:"4KiB" min:"64B" max:"64KiB" help:"longest key of a REST request"`
	Request        Size          `mapstructure:"request" default:"1.5MiB" min:"64KiB" max:"8MiB" help:"largest request of any kind"`
	TxnOps         int           `mapstructure:"txn-ops" default:"128" min:"1" max:"16384" help:"most operations of a transaction, and most conditions; over REST those of nested ones included, over gRPC as etcd counts them"`
	Handshakes     int           `mapstructure:"handshakes" default:"256" min:"1" max:"100000" help:"most TLS handshakes of https listeners under way at a time"`
	Requests       int           `mapstructure:"requests" default:"4096" min:"1" max:"1000000" help:"most requests of clients under way at a time, of any kind but watches"`
	Bodies         Size          `mapstructure:"bodies" default:"128MiB" min:"8MiB" help:"most memory that bodies of clients' requests may take at a time, those that are still arriving included; a call of gRPC counts 4 KiB besides"`
	ClientShare    int           `mapstructure:"client-share" default:"25" min:"1" max:"100" reload:"yes" help:"percent of connections, handshakes, requests, bodies and watches that one client may have, by its address (of IPv6 the first 64 bits); clients on this machine may have all"`
	Connections    int           `mapstructure:"connections" default:"1024" min:"1" max:"1000000" reload:"yes" help:"most client connections at a time"`
	HeaderTimeout  time.Duration `mapstructure:"header-timeout" default:"10s" min:"100ms" max:"10m" help:"time a client has to send the header of a request"`
	BodyTimeout    time.Duration `mapstructure:"body-timeout" default:"1m" min:"100ms" max:"24h" help:"time a client has to send the body of a request"`
	IdleTimeout    time.Duration `mapstructure:"idle-timeout" default:"10m" min:"1s" max:"24h" help:"time after which an unused client connection is closed"`
	Watches        int           `mapstructure:"watches" default:"1024" min:"1" max:"1000000" help:"most open watches at a time"`
	Rate           int           `mapstructure:"rate" default:"none" min:"0" reload:"yes" help:"most requests per second of one client, by its address as for limits.client-share; not for clients on this machine"`
	ConnectionRate int           `mapstructure:"connection-rate" default:"256" min:"0" max:"1000000" reload:"yes" help:"most connections that one client may open per second, by its address as for limits.client-share; those beyond are closed at once; 0 is any number; not for clients on this machine"`
}

// Audit is the record of who changed what.
type Audit struct {
	File     string `mapstructure:"file" check:"file" help:"file in which changes of data are written down: who, from where, which keys and what came of it, never a value; log is the log. What administrators do is in the log anyway"`
	MaxBytes Size   `mapstructure:"max-bytes" default:"16MiB" min:"64KiB" help:"size at which audit.file is renamed to FILE.1, in the place of the one before"`
}

// CORS is which web pages may use the API.
type CORS struct {
	Origins []string `mapstructure:"origins" check:"origins" help:"origins of web pages that may call the API, as https://example.com; * is any"`
}

// Auth is how long this node decides on permissions by itself.
type Auth struct {
	TokenTTL   time.Duration `mapstructure:"token-ttl" default:"1h" min:"10s" max:"720h" help:"how long a token is good for that a user gets for name and password; clients of etcd fetch the next by themselves"`
	MaxOffline time.Duration `mapstructure:"max-offline" default:"168h" min:"10s" help:"age of the mirrored policy up to which a proxy grants access while the uplink is lost"`
}
