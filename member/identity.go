package member

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"holdfast/kv"
)

// identityFormat is the version of the layout of Dir. A newer one is refused.
const identityFormat = 1

// identity is who a replica is. It is recorded before anything else, because the library keeps its files in folders
// named after it and starts afresh, without a word, in others.
type identity struct {
	Format  int    `json:"format"`
	Cluster uint64 `json:"cluster"`
	Replica uint64 `json:"replica"`
	Node    string `json:"node"`
	Join    bool   `json:"join,omitempty"`    // it has joined a cluster that was there, as a learner
	Started bool   `json:"started,omitempty"` // raft has run, so that there is a log
}

const identityName = "member.json"

var nodeIDForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// loadIdentity returns the identity recorded in cfg.Dir and checks it against cfg. In a fresh dir it records one.
func loadIdentity(cfg Config) (identity, error) {
	path := filepath.Join(cfg.Dir, identityName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return foundIdentity(cfg, path)
	}
	if err != nil {
		return identity{}, err
	}
	id, err := parseIdentity(path, b)
	if err != nil {
		return identity{}, err
	}
	want := identity{Format: id.Format, Cluster: cfg.ClusterID, Replica: cfg.ReplicaID, Node: cfg.NodeID, Join: id.Join, Started: id.Started}
	if want.Cluster == 0 {
		want.Cluster = id.Cluster
	}
	if want.Replica == 0 {
		want.Replica = id.Replica
	}
	if want.Node == "" {
		want.Node = id.Node
	}
	if want != id {
		return identity{}, kv.Errorf(kv.Invalid, "%s is of replica %d of cluster %016x on node %s, "+
			"and was opened as replica %d of cluster %016x on node %s: use the data dir that belongs to this node",
			cfg.Dir, id.Replica, id.Cluster, id.Node, want.Replica, want.Cluster, want.Node)
	}
	return id, nil
}

func parseIdentity(path string, b []byte) (id identity, err error) {
	if err := json.Unmarshal(b, &id); err != nil || id.Replica == 0 || id.Cluster == 0 || !nodeIDForm.MatchString(id.Node) {
		return identity{}, kv.Errorf(kv.Corrupt, "%s is damaged: restore it from a backup of the data dir "+
			"(it holds only format, cluster, replica and node id): %w", path, errors.Join(err, errIdentity))
	}
	if id.Format > identityFormat {
		return identity{}, kv.Errorf(kv.Unsupported, "%s has format %d, this version reads up to %d: "+
			"install a newer version", path, id.Format, identityFormat)
	}
	return id, nil
}

var errIdentity = errors.New("not the identity of a replica")

// foundIdentity records who the first replica of a new cluster is.
func foundIdentity(cfg Config, path string) (identity, error) {
	for _, name := range []string{raftDir, stateName} {
		if _, err := os.Stat(filepath.Join(cfg.Dir, name)); err == nil {
			return identity{}, kv.Errorf(kv.Corrupt, "%s is missing although %s is there: restore it from a backup "+
				"of the data dir, or move %s away to start with an empty one", path, name, cfg.Dir)
		}
	}
	id := identity{Format: identityFormat, Cluster: cfg.ClusterID, Replica: cfg.ReplicaID, Node: cfg.NodeID}
	for id.Cluster == 0 {
		id.Cluster = random64()
	}
	if id.Replica == 0 {
		id.Replica = 1
	}
	if id.Node == "" {
		id.Node = randomNodeID()
	}
	if !nodeIDForm.MatchString(id.Node) {
		return identity{}, kv.Errorf(kv.Invalid, "node id %q: not of the form of a UUID in lower case", id.Node)
	}
	return id, id.save(cfg.Dir)
}

func (id identity) save(dir string) error {
	b, err := json.Marshal(id)
	if err == nil {
		err = writeDurably(filepath.Join(dir, identityName), append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("record identity: %w", err)
	}
	return nil
}

// noteStarted records that there is a raft log from now on: one that is missing later was lost.
func (m *Member) noteStarted() error {
	if m.id.Started {
		return nil
	}
	id := m.id
	id.Started = true
	return id.save(m.cfg.Dir)
}

// writeDurably makes path hold b, all or nothing.
func writeDurably(path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func random64() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

func randomNodeID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
