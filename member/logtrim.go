package member

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	pb "github.com/lni/dragonboat/v4/raftpb"

	"holdfast/kv"
)

// The layout of a log of tan, which has it from LevelDB: blocks of 32 KiB, cut into chunks that do not cross blocks,
// each with a header of checksum (4 bytes), length (2) and type (1). A record is one full chunk, or a first one, any
// number of middle ones and a last one.
const (
	logBlock    = 32 << 10
	chunkHeader = 7

	chunkFull   = 1
	chunkFirst  = 2
	chunkMiddle = 3
	chunkLast   = 4
)

// trimLogs takes the unfinished end off every raft log below dir that was not closed: the zeros it was filled with
// ahead of time, and a record that was being written when the power failed. tan would copy the log for the former and
// refuse to start, or drop whatever follows, for the latter. A log that is damaged before its end is left as it is and
// reported as Corrupt.
func trimLogs(dir string, log *slog.Logger) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !isLogName(d.Name()) {
			return err
		}
		index := strings.TrimSuffix(path, ".log") + ".index"
		if _, err := os.Stat(index); err == nil {
			return nil // closed in good order
		}
		return trimLog(path, log)
	})
}

func trimLog(path string, log *slog.Logger) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	s := logScan{r: f}
	if err := s.run(); err != nil {
		return fmt.Errorf("read raft log %s: %w", path, err)
	}
	if s.lost > 0 {
		return kv.Errorf(kv.Corrupt, "raft log %s is damaged at byte %d, and %d records that were made durable "+
			"follow: nothing was changed; restore the data dir from a backup, or look after the disk and, in a cluster, "+
			"remove this member and let it join again with an empty data dir", path, s.end, s.lost)
	}
	if s.torn {
		log.Info("unfinished record at the end of the raft log dropped", "path", path, "offset", s.end)
	}
	if size == s.end {
		return f.Sync() // tan now writes an index of it, which must not outlive it
	}
	if err := f.Truncate(s.end); err != nil {
		return fmt.Errorf("trim raft log %s: %w", path, err)
	}
	return f.Sync()
}

// logScan reads a log once, from its beginning.
type logScan struct {
	r io.Reader

	end  int64 // of the last record before anything that is not one
	torn bool  // what follows is not just zeros
	lost int   // records behind end that had been made durable before the crash

	block  [logBlock]byte
	record []byte   // of which chunks have been seen
	within bool     // a record has begun
	past   bool     // behind end: only lost counts
	state  pb.State // newest
}

func (s *logScan) run() error {
	for base := int64(0); ; base += logBlock {
		n, err := io.ReadFull(s.r, s.block[:])
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			s.chunks(s.block[:n], base)
			s.torn = s.torn || s.within
			return nil
		}
		if err != nil {
			return err
		}
		s.chunks(s.block[:], base)
	}
}

// chunks reads the chunks of one block that begins at base.
func (s *logScan) chunks(b []byte, base int64) {
	for off := 0; off+chunkHeader <= len(b); {
		kind, payload, ok := readChunk(b[off:])
		if !ok {
			// The first thing that is no chunk ends the log. Behind it, look for one at every byte.
			if !s.past {
				s.past, s.within = true, false
			}
			rest := b[off:]
			next := slices.IndexFunc(rest, func(c byte) bool { return c != 0 })
			if next < 0 {
				return
			}
			s.torn = true
			off += max(1, next-chunkHeader+1)
			continue
		}
		off += chunkHeader + len(payload)
		s.chunk(kind, payload, base+int64(off))
	}
}

// readChunk returns the chunk that b begins with.
func readChunk(b []byte) (kind byte, payload []byte, ok bool) {
	if len(b) < chunkHeader {
		return 0, nil, false
	}
	n := int(binary.LittleEndian.Uint16(b[4:]))
	kind = b[6]
	if kind < chunkFull || kind > chunkLast || chunkHeader+n > len(b) {
		return 0, nil, false
	}
	if sum := uint32(xxhash.Sum64(b[6 : chunkHeader+n])); sum != binary.LittleEndian.Uint32(b) {
		return 0, nil, false
	}
	return kind, b[chunkHeader : chunkHeader+n], true
}

// chunk takes up one chunk that ends at end.
func (s *logScan) chunk(kind byte, payload []byte, end int64) {
	switch kind {
	case chunkFull, chunkFirst:
		if s.within && !s.past {
			s.past, s.torn = true, true // the record before this one has no end
		}
		s.record = append(s.record[:0], payload...)
		s.within = true
	default:
		if !s.within {
			if !s.past {
				s.past, s.torn = true, true
			}
			return
		}
		s.record = append(s.record, payload...)
	}
	if kind != chunkFull && kind != chunkLast {
		return
	}
	s.within = false
	durable := s.durable()
	switch {
	case !s.past:
		s.end = end
	case durable:
		s.lost++
	}
}

// durable reports whether the record was synced before the next one was written: all are but those that only move the
// commit index, and those that compact.
func (s *logScan) durable() bool {
	var u pb.Update
	if err := u.Unmarshal(s.record); err != nil {
		return true
	}
	old := s.state
	if !pb.IsEmptyState(u.State) && u.Term != tanCompaction {
		s.state = u.State
	}
	return len(u.EntriesToSave) > 0 || !pb.IsEmptySnapshot(u.Snapshot) ||
		s.state.Term != old.Term || s.state.Vote != old.Vote
}

// tanCompaction is the term tan marks the record of a compaction with.
const tanCompaction = ^uint64(0) - 2
