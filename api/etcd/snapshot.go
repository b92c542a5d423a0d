package etcd

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/status"

	"holdfast/api"
	"holdfast/kv"
)

const (
	// snapshotChunk is the size of a message. It is etcd's: a client counts its progress by them.
	snapshotChunk = 32 << 10

	// snapshotBlock is what the size of a snapshot without its checksum is a multiple of. etcdctl takes a file for whole
	// if what is left over is as long as a checksum.
	snapshotBlock = 512
)

// Snapshot sends the state of this member, zeros up to a multiple of snapshotBlock, and the SHA-256 of all that, which
// is what `etcdctl snapshot save` writes to a file and looks for at its end. What the state looks like is the store's own
// affair: no etcd can be started from it. The version is that of the API, as in Status.
func (s maintenanceService) Snapshot(_ *pb.SnapshotRequest, stream pb.Maintenance_SnapshotServer) error {
	ctx := stream.Context()
	admin, err := s.replica(ctx)
	if err != nil {
		return err
	}
	data, size, err := admin.Snapshot(ctx)
	if err != nil {
		return s.refusal(ctx, err)
	}
	sum, err := s.sendState(stream, data, size)
	if closeErr := data.Close(); err == nil && closeErr != nil {
		err = s.refusal(ctx, closeErr) // what was read may not be what is stored: it gets no checksum
	}
	if err != nil {
		return err
	}
	return stream.Send(&pb.SnapshotResponse{Blob: sum, Version: api.EtcdClusterVersion})
}

// sendState streams a state of so many bytes, with what makes it a multiple of snapshotBlock, and returns the checksum.
func (s maintenanceService) sendState(stream pb.Maintenance_SnapshotServer, data io.Reader, size int64) ([]byte, error) {
	ctx, sum := stream.Context(), sha256.New()
	left := (size + snapshotBlock - 1) / snapshotBlock * snapshotBlock
	for left > 0 {
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		chunk := make([]byte, min(left, snapshotChunk)) // one each: gRPC may hold on to it
		state := chunk[:min(int64(len(chunk)), size)]
		if _, err := io.ReadFull(data, state); err != nil {
			return nil, s.refusal(ctx, fmt.Errorf("read snapshot, %d bytes before its end: %w", size, err))
		}
		size, left = size-int64(len(state)), left-int64(len(chunk))
		_, _ = sum.Write(chunk) // never fails
		if err := stream.Send(&pb.SnapshotResponse{RemainingBytes: uint64(left), Blob: chunk, Version: api.EtcdClusterVersion}); err != nil {
			return nil, err
		}
	}
	if n, err := io.CopyN(io.Discard, data, 1); n > 0 || !errors.Is(err, io.EOF) {
		return nil, s.refusal(ctx, kv.Errorf(kv.Internal, "the snapshot does not end where it should: %v", err))
	}
	return sum.Sum(nil), nil
}
