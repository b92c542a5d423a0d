package raftnet

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

const testCluster = 42

func testBatch(node string, messages ...pb.Message) pb.MessageBatch {
	return pb.MessageBatch{DeploymentId: testCluster, SourceAddress: node, BinVer: raftio.TransportBinVersion, Requests: messages}
}

func message(t pb.MessageType) pb.Message {
	return pb.Message{Type: t, ShardID: 1, To: 2, From: 1, Term: 3, LogIndex: 7}
}

func entries(sizes ...int) pb.Message {
	m := message(pb.Replicate)
	for i, n := range sizes {
		m.Entries = append(m.Entries, pb.Entry{Index: uint64(i + 1), Term: 3, Cmd: bytes.Repeat([]byte{byte(i)}, n)}) //nolint:gosec // few
	}
	return m
}

func encoded(t testing.TB, b pb.MessageBatch) []byte {
	t.Helper()
	data, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestHelloIsReadBack(t *testing.T) {
	want := hello{kindLog, testCluster, nonce{1, 2, 3}}
	b := want.append(nil)
	if len(b) != helloSize {
		t.Errorf("%d bytes, want %d", len(b), helloSize)
	}
	got, err := readHello(bytes.NewReader(b))
	if err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for i := range b {
		if _, err := readHello(bytes.NewReader(b[:i])); err == nil {
			t.Errorf("%d bytes of %d were taken", i, len(b))
		}
	}
	b[len(magic)]++
	if _, err := readHello(bytes.NewReader(b)); !errors.Is(err, errNewer) || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("a newer version: %v", err)
	}
	b[len(magic)], b[len(magic)+1] = formatVersion, 9
	if _, err := readHello(bytes.NewReader(b)); !errors.Is(err, errFormat) {
		t.Errorf("an unknown kind: %v", err)
	}
}

func TestLongFrameIsRefusedBeforeItIsRead(t *testing.T) {
	b := appendFrameHeader(nil, 1<<30)
	if _, err := readFrame(bytes.NewReader(b), nil, maxBatchFrame); !errors.Is(err, errFrame) {
		t.Errorf("%v, want %v", err, errFrame)
	}
	if _, err := readFrame(bytes.NewReader(appendFrameHeader(nil, 100)), nil, 1000); !errors.Is(err, io.EOF) {
		t.Errorf("a frame without its bytes: %v", err)
	}
}

func TestOnlyWhatReplicasSayIsTaken(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*pb.MessageBatch)
		want   error
	}{
		"as it should be":      {func(*pb.MessageBatch) {}, nil},
		"another cluster":      {func(b *pb.MessageBatch) { b.DeploymentId++ }, errCluster},
		"another node's name":  {func(b *pb.MessageBatch) { b.SourceAddress = "c" }, errFormat},
		"no name":              {func(b *pb.MessageBatch) { b.SourceAddress = "" }, errFormat},
		"another encoding":     {func(b *pb.MessageBatch) { b.BinVer++ }, errFormat},
		"to nobody":            {func(b *pb.MessageBatch) { b.Requests[0].To = 0 }, errFormat},
		"a tick":               {func(b *pb.MessageBatch) { b.Requests[0].Type = pb.LocalTick }, errFormat},
		"an election":          {func(b *pb.MessageBatch) { b.Requests[0].Type = pb.Election }, errFormat},
		"unreachable":          {func(b *pb.MessageBatch) { b.Requests[0].Type = pb.Unreachable }, errFormat},
		"a snapshot on a lane": {func(b *pb.MessageBatch) { b.Requests[0].Type = pb.InstallSnapshot }, errFormat},
	} {
		t.Run(name, func(t *testing.T) {
			b := testBatch("b", message(pb.Heartbeat))
			tc.change(&b)
			_, err := decodeBatch(encoded(t, b), testCluster, "b")
			if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
				t.Errorf("%v, want %v", err, tc.want)
			}
		})
	}
}

// The library's decoder would count messages for ever: the second one is said to be of -11 bytes.
func TestLengthThatLeadsBackIsRefused(t *testing.T) {
	b := []byte{1<<3 | 2, 0, 1<<3 | 2, 0xf5, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}
	if _, err := decodeBatch(b, testCluster, "b"); !errors.Is(err, errFormat) {
		t.Errorf("%v, want %v", err, errFormat)
	}
}

func FuzzStream(f *testing.F) {
	number := []byte{1}
	body := encoded(f, testBatch("b", message(pb.Heartbeat), entries(3, 400)))
	stream := hello{kindLog, testCluster, nonce{7}}.append(nil)
	stream = append(append(appendFrameHeader(stream, len(body)+1), number...), body...)
	f.Add(stream)
	f.Add(stream[:len(stream)-1])
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		h, err := readHello(r)
		if err != nil {
			return
		}
		if again := h.append(nil); !bytes.Equal(again, data[:helloSize]) {
			t.Fatalf("hello %x is written as %x", data[:helloSize], again)
		}
		var buf []byte
		for {
			if buf, err = readFrame(r, buf, maxBatchFrame); err != nil {
				return
			}
			_, b, err := splitNumber(buf)
			if err != nil {
				return
			}
			batch, err := decodeBatch(b, testCluster, "b")
			if err == nil {
				if _, err := decodeBatch(encoded(t, batch), testCluster, "b"); err != nil {
					t.Fatalf("what was taken is refused when sent again: %v", err)
				}
			}
			_, _ = decodeChunk(b, testCluster)
		}
	})
}

func FuzzMessages(f *testing.F) {
	f.Add(encoded(f, testBatch("b", message(pb.Heartbeat), entries(3, 400))))
	c := chunk(0, 1, 100)
	data, err := c.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if batch, err := decodeBatch(data, testCluster, "b"); err == nil {
			if _, err := decodeBatch(encoded(t, batch), testCluster, "b"); err != nil {
				t.Fatalf("a batch that was taken is refused when sent again: %v", err)
			}
		}
		if c, err := decodeChunk(data, testCluster); err == nil {
			again, err := c.Marshal()
			if err == nil {
				_, err = decodeChunk(again, testCluster)
			}
			if err != nil {
				t.Fatalf("a chunk that was taken is refused when sent again: %v", err)
			}
		}
	})
}
