package member

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"holdfast/kv"
	"holdfast/mvcc"
)

// A backup is a file in three parts. It is what `agent snapshot save` and `etcdctl snapshot save` write alike:
//
//	the state file, a bbolt file            a multiple of 4096
//	what it is, JSON padded with spaces     512
//	SHA-256 of all that                     32
//
// A snapshot of etcd has the first and the last part, a copied db of etcd the first alone.
const (
	infoBytes  = 512
	blockBytes = 512 // what all but the checksum is a multiple of
	infoFormat = 1
	infoKind   = "holdfast-backup"
	versionMax = 64 // bytes of the version that fit
)

// BackupInfo is what a backup says of itself.
type BackupInfo struct {
	Kind       string    `json:"kind"`
	Format     int       `json:"format"`
	Version    string    `json:"version"` // of the product that made it
	Created    time.Time `json:"created"` // by the clock of the member that made it
	Cluster    string    `json:"cluster"`
	Epoch      string    `json:"epoch"`
	Revision   int64     `json:"revision"`
	StateBytes int64     `json:"state_bytes"`
}

func infoOf(sn *mvcc.Snapshot, size int64, version string, now time.Time) BackupInfo {
	epoch := sn.Epoch()
	return BackupInfo{
		Kind: infoKind, Format: infoFormat, Version: version[:min(len(version), versionMax)], Created: now.UTC().Truncate(time.Second),
		Cluster: fmt.Sprintf("%016x", epoch.Cluster), Epoch: epoch.String(), Revision: sn.Revision(), StateBytes: size,
	}
}

// block is the info as it stands in a backup.
func (i BackupInfo) block() []byte {
	b, err := json.Marshal(i)
	if err != nil || len(b) >= infoBytes {
		panic(fmt.Sprintf("member: a backup's info of %d bytes: %v", len(b), err)) // its fields are bounded
	}
	b = append(b, bytes.Repeat([]byte{' '}, infoBytes-len(b))...)
	b[infoBytes-1] = '\n'
	return b
}

// BackupKind is what a file is that a cluster can be made of.
type BackupKind string

// The kinds of files.
const (
	HoldfastBackup BackupKind = "holdfast"
	EtcdSnapshot   BackupKind = "etcd"
)

// Backup is a file that was read whole and found to be good.
type Backup struct {
	Path     string
	Kind     BackupKind
	Bytes    int64  // of the file
	SHA256   string // of its content, as it says at its end; empty for a copied db of etcd, which has none
	Info     *BackupInfo
	Contents mvcc.Contents // of an etcd's only what is comparable: revision and compact revision are its own

	state int64 // bytes of the bbolt file at its head
}

// ReadBackup reads the file at path, verifies its checksum and every record in it, and says what it holds. It changes
// nothing. A file that is damaged, cut short or something else is kv.Corrupt, one of a newer version kv.Unsupported.
func ReadBackup(ctx context.Context, path string) (Backup, error) {
	b, err := openBackup(ctx, path)
	if err != nil {
		return b, err
	}
	if b.Kind == EtcdSnapshot {
		err = b.tryImport(ctx)
		return b, err
	}
	b.Contents, err = mvcc.Examine(path, b.state, ctx.Done())
	if err == nil && b.Info != nil && b.Info.Epoch != b.Contents.Epoch.String() {
		err = kv.Errorf(kv.Corrupt, "backup %s says that it is of epoch %s, but its state is of %s", path, b.Info.Epoch, b.Contents.Epoch)
	}
	return b, err
}

// tryImport examines a file of etcd by making a file of ours of it, beside it where there is room, and throwing that away.
// Users and roles are judged when it is restored.
func (b *Backup) tryImport(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "holdfast-verify-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	im, err := mvcc.ImportEtcd(b.Path, b.state, dir+"/state.db", kv.Epoch{}, true, ctx.Done())
	b.Contents = im.Contents
	return err
}

// openBackup verifies the checksum of a file and finds its parts.
func openBackup(ctx context.Context, path string) (b Backup, err error) {
	f, err := os.Open(path)
	if err != nil {
		return b, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return b, err
	}
	b = Backup{Path: path, Bytes: info.Size(), state: info.Size()}
	if !info.Mode().IsRegular() {
		return b, kv.Errorf(kv.Invalid, "%s is no file", path)
	}
	if b.Bytes%blockBytes == sha256.Size {
		b.state -= sha256.Size
		if b.SHA256, err = checkSum(ctx, f, b.state); err != nil {
			return b, fmt.Errorf("backup %s: %w", path, err)
		}
		if b.Info, err = readInfo(f, b.state); err != nil {
			return b, fmt.Errorf("backup %s: %w", path, err)
		}
		if b.Info != nil {
			b.state -= infoBytes
		}
	}
	b.Kind = HoldfastBackup
	etcd, err := mvcc.IsEtcd(path, b.state)
	switch {
	case err != nil:
		return b, fmt.Errorf("%s is no backup, or is damaged: %w", path, err)
	case etcd:
		b.Kind = EtcdSnapshot
	case b.SHA256 == "":
		return b, kv.Errorf(kv.Corrupt, "backup %s has %d bytes, which is no size of a whole one: it was cut short, or its checksum was cut off; take it again", path, b.Bytes)
	}
	return b, nil
}

// checkSum compares the content with the checksum behind it.
func checkSum(ctx context.Context, f *os.File, size int64) (string, error) {
	sum := sha256.New()
	r := &interruptible{ctx, io.NewSectionReader(f, 0, size)}
	if n, err := io.Copy(sum, r); err != nil || n != size {
		return "", fmt.Errorf("read %d bytes of %d: %w", n, size, err)
	}
	var says [sha256.Size]byte
	if _, err := f.ReadAt(says[:], size); err != nil {
		return "", err
	}
	if got := sum.Sum(nil); !bytes.Equal(got, says[:]) {
		return "", kv.Errorf(kv.Corrupt, "its content has the SHA-256 %.12x..., at its end stands %.12x...: it is damaged, or was cut short; use another", got, says)
	}
	return hex.EncodeToString(says[:]), nil
}

// readInfo reads the block that ends at size, nil if there is none.
func readInfo(f io.ReaderAt, size int64) (*BackupInfo, error) {
	var b [infoBytes]byte
	if size < infoBytes {
		return nil, nil
	}
	if _, err := f.ReadAt(b[:], size-infoBytes); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(b[:], []byte(`{"kind":"`+infoKind+`"`)) {
		return nil, nil
	}
	var i BackupInfo
	if err := json.Unmarshal(b[:], &i); err != nil {
		return nil, kv.Errorf(kv.Corrupt, "what it says of itself cannot be read: %w", err)
	}
	switch {
	case i.Format > infoFormat:
		return nil, kv.Errorf(kv.Unsupported, "it has format %d, this version (it was made by %q) reads up to %d: install that version or a newer one", i.Format, i.Version, infoFormat)
	case i.Format < 1 || i.StateBytes != size-infoBytes:
		return nil, kv.Errorf(kv.Corrupt, "it says that its state has %d bytes, and there are %d", i.StateBytes, size-infoBytes)
	}
	return &i, nil
}

// interruptible is a reader that ends with its context.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}

// Make makes, at to, the state file of a new cluster of a backup; see mvcc.Renew and mvcc.ImportEtcd. For one of etcd
// only the epoch of r counts.
func (b Backup) Make(ctx context.Context, to string, r mvcc.Renewal) (im mvcc.Imported, err error) {
	if b.Kind == EtcdSnapshot {
		return b.importEtcd(ctx, to, r)
	}
	im.Contents, err = mvcc.Renew(b.Path, b.state, to, r, ctx.Done())
	return im, err
}

func (b Backup) importEtcd(ctx context.Context, to string, r mvcc.Renewal) (im mvcc.Imported, err error) {
	if r.Bump == 0 {
		return mvcc.ImportEtcd(b.Path, b.state, to, r.Epoch, r.DropUsers, ctx.Done())
	}
	first := to + ".etcd"
	defer func() { err = errors.Join(err, removeIfThere(first)) }()
	if im, err = mvcc.ImportEtcd(b.Path, b.state, first, r.Epoch, r.DropUsers, ctx.Done()); err != nil {
		return im, err
	}
	info, err := os.Stat(first)
	if err != nil {
		return im, err
	}
	im.Contents, err = mvcc.Renew(first, info.Size(), to, r, ctx.Done())
	return im, err
}
