package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"

	"holdfast/api"
	"holdfast/kv"
)

// closeCounter is a snapshot that is open until it is closed.
type closeCounter struct {
	io.Reader
	open *atomic.Int32
	err  error
}

// Seek is not for this door: it sends from the start to the end.
func (c closeCounter) Seek(int64, int) (int64, error) { return 0, errors.ErrUnsupported }

func (c closeCounter) Close() error {
	c.open.Add(-1)
	return c.err
}

// give has the admin give a snapshot of content and say it had size bytes.
func (n *rig) give(content io.Reader, size int64, closeErr error) (open *atomic.Int32) {
	open = &atomic.Int32{}
	n.admin.snapshot = func() (io.ReadSeekCloser, int64, error) {
		open.Add(1)
		return closeCounter{content, open, closeErr}, size, nil
	}
	return open
}

// save does what `etcdctl snapshot save` does: it writes everything down and looks for a checksum by the size.
func (n *rig) save() (file []byte, err error) {
	n.Helper()
	stream := ok[pb.Maintenance_SnapshotClient](n.T)(pb.NewMaintenanceClient(n.conn).Snapshot(n.ctx, &pb.SnapshotRequest{}))
	left := int64(-1)
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return file, err
		}
		file = append(file, r.Blob...)
		if left >= 0 && r.RemainingBytes != 0 && int64(r.RemainingBytes)+int64(len(r.Blob)) != left {
			n.Errorf("%d bytes remain after %d of %d", r.RemainingBytes, len(r.Blob), left)
		}
		left = int64(r.RemainingBytes)
		if r.Version != api.EtcdClusterVersion {
			n.Errorf("a message names version %q", r.Version)
		}
	}
	if left != 0 {
		n.Errorf("%d bytes remain at the end", left)
	}
	return file, nil
}

func TestSnapshotIsWhatEtcdctlTakesForWhole(t *testing.T) {
	for _, size := range []int{0, 1, 511, 512, 513, snapshotChunk - 1, snapshotChunk, snapshotChunk + 1, 5*snapshotChunk + 100} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			n := openRig(t, nil)
			state := make([]byte, size)
			_, _ = rand.NewChaCha8([32]byte{1}).Read(state)
			open := n.give(bytes.NewReader(state), int64(size), nil)
			file, err := n.save()
			if err != nil {
				t.Fatal(err)
			}
			if len(file)%snapshotBlock != sha256.Size {
				t.Fatalf("%d bytes: etcdctl would not find a checksum", len(file))
			}
			body, sum := file[:len(file)-sha256.Size], file[len(file)-sha256.Size:]
			if want := sha256.Sum256(body); !bytes.Equal(sum, want[:]) {
				t.Errorf("checksum %x, want %x", sum, want)
			}
			if !bytes.Equal(body[:size], state) || len(bytes.Trim(body[size:], "\x00")) != 0 {
				t.Error("the state is not what was sent, with zeros behind it")
			}
			if open.Load() != 0 {
				t.Error("the snapshot is still open")
			}
		})
	}
}

func TestADamagedSnapshotGetsNoChecksum(t *testing.T) {
	state := func(size int) io.Reader { return bytes.NewReader(make([]byte, size)) }
	for name, tc := range map[string]struct {
		content  io.Reader
		closeErr error
		code     codes.Code
	}{
		"ends early":      {state(1000), nil, codes.Internal},
		"goes on":         {state(1025), nil, codes.Internal},
		"cannot be read":  {io.MultiReader(state(600), failing{kv.Errorf(kv.Corrupt, "a page is damaged")}), nil, codes.DataLoss},
		"fails to close":  {state(1024), errors.New("changed meanwhile"), codes.Internal},
		"fails after all": {io.MultiReader(state(1024), failing{errors.New("disk")}), nil, codes.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			n := openRig(t, nil)
			open := n.give(tc.content, 1024, tc.closeErr)
			file, err := n.save()
			n.refused(err, tc.code, "...")
			if len(file)%snapshotBlock == sha256.Size {
				t.Errorf("%d bytes came, which looks whole", len(file))
			}
			if open.Load() != 0 {
				t.Error("the snapshot is still open")
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestSnapshotThatCannotBeTaken(t *testing.T) {
	n := openRig(t, nil)
	n.admin.snapshot = func() (io.ReadSeekCloser, int64, error) { return nil, 0, kv.Errorf(kv.NoSpace, "the disk is full") }
	_, err := n.save()
	n.refused(err, codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded")
	n.admin.snapshot = func() (io.ReadSeekCloser, int64, error) { return nil, 0, kv.Errorf(kv.Busy, "two are under way") }
	_, err = n.save()
	n.refused(err, codes.ResourceExhausted, "etcdserver: too many requests")
}

func TestASnapshotEndsWithItsClient(t *testing.T) {
	n := openRig(t, nil)
	open := n.give(zeros{}, 64<<20, nil) // more than gRPC takes in without a reader
	ctx, cancel := context.WithCancel(n.ctx)
	defer cancel()
	stream := ok[pb.Maintenance_SnapshotClient](t)(pb.NewMaintenanceClient(n.conn).Snapshot(ctx, &pb.SnapshotRequest{}))
	ok[*pb.SnapshotResponse](t)(stream.Recv())
	if open.Load() != 1 {
		t.Errorf("%d snapshots are open while one is sent", open.Load())
	}
	cancel()
	n.stop() // waits for the call
	if open.Load() != 0 {
		t.Error("the snapshot is still open")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
