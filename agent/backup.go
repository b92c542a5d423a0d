package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"holdfast/member"
)

// BackupReport is what a backup holds, all of it verified.
type BackupReport struct {
	File    string     `json:"file"`
	Kind    string     `json:"kind"` // holdfast or etcd
	Bytes   int64      `json:"bytes"`
	SHA256  string     `json:"sha256,omitempty"`
	Version string     `json:"version,omitempty"` // of the product that made it; absent if the file does not say
	Created *time.Time `json:"created,omitempty"`

	Cluster  string `json:"cluster,omitempty"` // absent for etcd
	Epoch    string `json:"epoch,omitempty"`
	Revision int64  `json:"revision"`
	Compact  int64  `json:"compact_revision"`
	Keys     int64  `json:"keys"`
	Changes  int64  `json:"changes"` // of keys, in the history
	Leases   int64  `json:"leases"`
}

// VerifyBackup reads a backup, or a snapshot of etcd, whole and says what it holds. Its errors have exit codes.
func VerifyBackup(ctx context.Context, file string) (BackupReport, error) {
	b, err := member.ReadBackup(ctx, file)
	if err != nil {
		return BackupReport{}, backupError(err)
	}
	c := b.Contents
	r := BackupReport{File: file, Kind: string(b.Kind), Bytes: b.Bytes, SHA256: b.SHA256, Revision: c.Revision, Compact: c.Compact,
		Keys: c.Keys, Changes: c.Changes, Leases: c.Leases}
	if b.Kind == member.HoldfastBackup {
		r.Cluster, r.Epoch = fmt.Sprintf("%016x", c.Epoch.Cluster), c.Epoch.String()
	}
	if b.Info != nil {
		r.Version, r.Created = b.Info.Version, &b.Info.Created
	}
	return r, nil
}

// ownDir refuses the data dir of another user: what root makes in it the agent could not open.
func ownDir(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return storageError(err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return refusef("data dir %s belongs to the user with id %d, and this is run by %d: run it as that user (sudo -u '#%d' agent ...), or its agent could not open what is made here", path, st.Uid, os.Geteuid(), st.Uid)
	}
	return nil
}
